// Checks the CUDA source of random expressions (cuda_rtc_source.cuh), without a GPU.
//
//   rtc source SEED COUNT        prints the kernels of COUNT random expressions as source
//   rtc run SEED COUNT           runs kernels over the emulator; compares each element and the marked
//                                elements with the plain evaluator. MMSB_GENERATED names the file of kernels
//                                when this is built.
//   rtc compile SEED COUNT ARCH  compiles them by NVRTC, if it is found, for an architecture
//
// Prints failures, and exits with status 1 if there are any. Spawned by rtc.test.ts.

// The emulator stands in for the CUDA headers, so it comes first.
#include "cuda_emulator.h"

#include "cuda/ops/cuda_rtc.cuh"
#include "cuda/ops/map_cuda.cuh"
#include "vm_cases.h"

#ifdef MMSB_GENERATED
typedef void (*Kernel)(const MapDevice* map, const DeviceRanges* work, StoreSink sink);
#include MMSB_GENERATED
#endif

static void drawCase(Case& c, u64 number) {
  start(number);
  const bool simple = below(3) == 0;
  if (simple) simpleBlob(c.blob, 1 + below(3), 2 + below(20));
  else randomBlob(c.blob, below(8) == 0 ? 0 : 1 + below(4), 1 + below(12));
  randomShapes(c, simple && below(2) == 0 ? c.blob.inputs[0] : u8(below(DTYPE_COUNT)));
}

// The dtype of the output page; often different from the dtype of the results.
static u32 targetDtype(const Case& c, u64 number) {
  return number % 3 == 0 ? u32(number / 3 % DTYPE_COUNT) : c.out.page.dtype;
}

static bool sourceOf(const Case& c, u64 number, const char* name, Text& text) {
  return putKernel(text, *static_cast<const MapState*>(c.step.state), name, c.out.page.dtype, targetDtype(c, number));
}

static void printSources(u64 first, u32 count) {
  for (u32 k = 0; k < count; k++) {
    Case c;
    drawCase(c, first + k);
    if (prepareMap(c.step) != MMSB_OK) continue;
    char name[32];
    snprintf(name, sizeof name, "kernel%u", k);
    Text text = {nullptr, 0, 0, false};
    if (sourceOf(c, first + k, name, text)) printf("%s", text.data);
    free(text.data);
    releaseMap(c.step);
  }
  printf("static const Kernel kKernels[] = {");
  for (u32 k = 0; k < count; k++) printf("kernel%u, ", k);
  printf("};\n");
}

#ifdef MMSB_GENERATED
static void checkKernel(Case& c, u64 number, Kernel kernel) {
  const MapState& state = *static_cast<const MapState*>(c.step.state);
  const Program& p = *state.program;
  const u32 natural = c.out.page.dtype, dtype = targetDtype(c, number), elements = c.out.page.elements;
  Buffer target;
  makePage(target, dtype, c.out.page.rank, c.out.page.shape);
  const u32 perChunk = kChunkBytes / dtypeBytes(dtype), chunks = elements / perChunk + 1;
  std::vector<const void*> data;
  for (Page* page : c.pages) data.push_back(page->data);
  std::vector<u64> expected(elements), before(elements);
  std::vector<u64> registers(p.evalRegisters);
  for (u32 i = 0; i < elements; i++) {
    const auto load = [&](u32 input, u32 from) {
      return loadLane(from, c.pages[input]->data, sourceElement(c.out.page, *c.pages[input], i));
    };
    const u64 lane = evaluate(p.eval, p.evalCount, p.evalResult, registers.data(), load);
    expected[i] = rawOfLane(dtype, natural == dtype ? lane : castLane(dtype, natural, lane));
    before[i] = below(2) == 0 ? expected[i] : rawOfLane(dtype, randomElement(dtype));
    setElement(target.page, i, before[i]);
  }
  MapDevice map;
  describeMap(state, nullptr, data.data(), map);
  std::vector<u32> slots(chunks), bits(u64(chunks) * kChunkMarkWords, 0);
  std::vector<DeviceChunk> list(chunks);
  for (u32 i = 0; i < chunks; i++) {
    slots[i] = i;
    list[i] = DeviceChunk{0, i};
  }
  const DeviceTarget described = {target.page.data, nullptr, slots.data(), target.page.bytes, nullptr, dtype, 0};
  const StoreSink sink = {{&described, list.data(), bits.data(), chunks}, 0, natural};
  // Two ranges, with a gap between them that must not change.
  const u32 gap = elements < 3 ? 0 : 1 + below(elements / 2),
            from = elements < 3 ? elements : 1 + below(elements - gap - 1);
  const Range ranges[2] = {{0, from}, {from + gap, elements - from - gap}};
  const u32 firsts[2] = {0, from};
  const DeviceRanges work = {elements < 3 ? 1u : 2u, elements - gap, ranges, firsts};
  MMSB_LAUNCH(kernel, 3, 64, nullptr, &map, &work, sink);
  for (u32 i = 0; i < elements; i++) {
    const bool inside = i < from || i >= from + gap;
    const u64 got = loadRaw(dtypeBytes(dtype), target.page.data, i), wanted = inside ? expected[i] : before[i];
    if (got != wanted) {
      REPORT("program %llu, element %u of %u: kernel %llx, evaluator %llx (dtype %u)\n", (unsigned long long)number, i,
             elements, (unsigned long long)got, (unsigned long long)wanted, dtype);
    }
    const bool marked = (bits[u64(i / perChunk) * kChunkMarkWords + i % perChunk / 32] >> (i % 32) & 1) != 0;
    if (marked != (wanted != before[i])) {
      REPORT("program %llu, element %u is %smarked\n", (unsigned long long)number, i, marked ? "" : "not ");
    }
  }
}

static void runKernels(u64 first, u32 count) {
  u64 elements = 0;
  for (u32 k = 0; k < count; k++) {
    Case c;
    drawCase(c, first + k);
    if (prepareMap(c.step) != MMSB_OK) {
      REPORT("refused: %s\n", lastError);
      continue;
    }
    checkKernel(c, first + k, kKernels[k]);
    elements += c.out.page.elements;
    releaseMap(c.step);
  }
  printf("ran %u kernels on %llu elements\n", count, (unsigned long long)elements);
}
#endif

static int compileAll(u64 first, u32 count, u32 arch) {
  Nvrtc nvrtc;
  memset(&nvrtc, 0, sizeof nvrtc);
  if (!openNvrtc(nvrtc)) {
    printf("no libnvrtc\n");
    return 0;
  }
  u64 total = 0;
  u32 compiledCount = 0;
  for (u32 k = 0; k < count; k++) {
    Case c;
    drawCase(c, first + k);
    if (prepareMap(c.step) != MMSB_OK) continue;
    Text text = {nullptr, 0, 0, false};
    put(text, "%s", kRtcHead);
    u64 bytes = 0;
    char reason[2000] = "";
    char* image = sourceOf(c, first + k, kRtcName, text)
                      ? compileSource(nvrtc, text.data, arch, &bytes, reason, sizeof reason)
                      : nullptr;
    if (image == nullptr) REPORT("program %llu: %s\n%s", (unsigned long long)(first + k), reason, text.data);
    else if (memcmp(image, "\177ELF", 4) != 0) {
      REPORT("program %llu: no machine code\n", (unsigned long long)(first + k));
    } else {
      compiledCount++;
    }
    total += bytes;
    free(image);
    free(text.data);
    releaseMap(c.step);
  }
  printf("compiled %u of %u, %llu bytes\n", compiledCount, count, (unsigned long long)total);
  return 0;
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  const u64 first = argc > 2 ? strtoull(argv[2], nullptr, 10) : 0;
  const u32 count = argc > 3 ? u32(strtoull(argv[3], nullptr, 10)) : 0;
  if (strcmp(mode, "source") == 0) {
    printSources(first, count);
    return failures != 0;
  }
  if (strcmp(mode, "compile") == 0) compileAll(first, count, argc > 4 ? u32(atoi(argv[4])) : 80);
#ifdef MMSB_GENERATED
  else if (strcmp(mode, "run") == 0) runKernels(first, count);
#endif
  else return 2;
  printf("failures %d\n", failures);
  return failures != 0;
}
