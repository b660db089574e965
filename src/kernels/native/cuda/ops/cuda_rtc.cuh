// Compiles expressions at run time by NVRTC. Without NVRTC they are interpreted (map_cuda.cuh).
//
// Invariants: the source is compiled with the flags of the build, so the bits equal the CPU's. If anything
// fails (no libnvrtc, a compile error, a driver that rejects the code), the step uses the interpreting
// kernel; the failure is counted, with its reason. Compiled code is cached under a hash of the source, the
// architecture and the compiler version: in memory, and as files in $MMSB_KERNEL_CACHE, else
// $XDG_CACHE_HOME/mmsb, else ~/.cache/mmsb. A damaged file is compiled again. All contexts share the kernels;
// a lock is held while one is made.
#pragma once
#include <dlfcn.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cuda/memory/cuda_api.cuh"
#include "cuda/ops/cuda_rtc_source.cuh"
#include "cuda/ops/map_device.cuh"

namespace mmsb {

struct RtcKernel {
  u64 hash[2];
  void* kernel;  // the handle for launches
};

// Counts of the expressions of this process, by what became of them.
struct RtcCounts {
  u32 compiled, loaded, interpreted;
  char reason[160];  // why the last interpreted expression was not compiled
};

namespace MMSB_NS {

static const u32 kRtcElements = 1u << 16;  // smaller pages are not worth compiling for
static const u32 kRtcKernelsMax = 4096;    // kept in memory
static const u32 kRtcThreads = 256;

// ---- the compiler -----------------------------------------------------------------------------------------

typedef struct NvrtcProgram* NvrtcHandle;

// The functions of libnvrtc that are used.
struct Nvrtc {
  void* library;
  int (*version)(int*, int*);
  int (*create)(NvrtcHandle*, const char*, const char*, int, const char* const*, const char* const*);
  int (*compile)(NvrtcHandle, int, const char* const*);
  int (*imageSize)(NvrtcHandle, size_t*);
  int (*image)(NvrtcHandle, char*);
  int (*logSize)(NvrtcHandle, size_t*);
  int (*log)(NvrtcHandle, char*);
  int (*destroy)(NvrtcHandle*);
};

// The headers that a kernel includes, from when the library was built: name, text, name, text, ..., null.
#ifdef MMSB_RTC_SOURCES
static const char* const kRtcSources[] = {
#include MMSB_RTC_SOURCES
    nullptr};
#else
static const char* const kRtcSources[] = {nullptr};
#endif
static const u32 kRtcSourcesMax = 16;

template <class F>
static bool findFunction(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

// MMSB_NVRTC may name the library, or be `off`.
static bool openNvrtc(Nvrtc& nvrtc) {
  static const char* const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so",
                                      "/usr/local/cuda/lib64/libnvrtc.so"};
  const char* asked = getenv("MMSB_NVRTC");
  if (asked != nullptr) {
    nvrtc.library = strcmp(asked, "off") == 0 ? nullptr : dlopen(asked, RTLD_NOW | RTLD_LOCAL);
  } else {
    for (u32 i = 0; i < sizeof names / sizeof names[0] && nvrtc.library == nullptr; i++) {
      nvrtc.library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
  }
  return nvrtc.library != nullptr && findFunction(nvrtc.library, "nvrtcVersion", nvrtc.version) &&
         findFunction(nvrtc.library, "nvrtcCreateProgram", nvrtc.create) &&
         findFunction(nvrtc.library, "nvrtcCompileProgram", nvrtc.compile) &&
         findFunction(nvrtc.library, "nvrtcGetCUBINSize", nvrtc.imageSize) &&
         findFunction(nvrtc.library, "nvrtcGetCUBIN", nvrtc.image) &&
         findFunction(nvrtc.library, "nvrtcGetProgramLogSize", nvrtc.logSize) &&
         findFunction(nvrtc.library, "nvrtcGetProgramLog", nvrtc.log) &&
         findFunction(nvrtc.library, "nvrtcDestroyProgram", nvrtc.destroy);
}

// Returns machine code for an architecture (90 for compute capability 9.0), which the caller frees. On
// failure returns null and sets the reason.
static char* compileSource(const Nvrtc& nvrtc, const char* source, u32 arch, u64* bytes, char* reason,
                           u64 reasonBytes) {
  const char* headers[kRtcSourcesMax];
  const char* names[kRtcSourcesMax];
  int count = 0;
  for (; kRtcSources[2 * count] != nullptr && u32(count) < kRtcSourcesMax; count++) {
    names[count] = kRtcSources[2 * count];
    headers[count] = kRtcSources[2 * count + 1];
  }
  char gpu[32];
  snprintf(gpu, sizeof gpu, "-arch=sm_%u", arch);
  const char* const options[] = {gpu,          "-std=c++17",      "-fmad=false",  "-prec-div=true", "-prec-sqrt=true",
                                 "-ftz=false", "-default-device", "-DMMSB_NS=rtc"};
  NvrtcHandle program = nullptr;
  int status = nvrtc.create(&program, source, "mmsb_map.cu", count, headers, names);
  if (status == 0) status = nvrtc.compile(program, int(sizeof options / sizeof options[0]), options);
  size_t size = 0;
  char* image = nullptr;
  if (status == 0 && nvrtc.imageSize(program, &size) == 0 && size != 0) image = static_cast<char*>(malloc(size));
  if (image != nullptr && nvrtc.image(program, image) != 0) {
    free(image);
    image = nullptr;
  }
  if (image == nullptr) {
    snprintf(reason, reasonBytes, "NVRTC failed with status %d", status);
    size_t length = 0;
    char* log = program != nullptr && nvrtc.logSize(program, &length) == 0 && length > 1
                    ? static_cast<char*>(malloc(length))
                    : nullptr;
    if (log != nullptr && nvrtc.log(program, log) == 0) {
      for (char* c = log; *c != 0; c++) {
        if (*c == '\n' || *c == '"' || *c == '\\' || u8(*c) < 32) *c = ' ';
      }
      snprintf(reason, reasonBytes, "NVRTC: %s", log);
    }
    free(log);
  }
  if (program != nullptr) nvrtc.destroy(&program);
  *bytes = size;
  return image;
}

// ---- files ------------------------------------------------------------------------------------------------

// Two independent 64-bit FNV-1a hashes.
static void hashText(const char* text, u64 length, u64 hash[2]) {
  hash[0] = 0xcbf29ce484222325ull;
  hash[1] = 0x84222325cbf29ce4ull;
  for (u64 i = 0; i < length; i++) {
    hash[0] = (hash[0] ^ u8(text[i])) * 0x100000001b3ull;
    hash[1] = (hash[1] ^ u8(text[length - 1 - i])) * 0x100000001b3ull;
  }
}

// The header of a cache file; the machine code follows.
struct RtcFile {
  u64 magic, key[2], bytes, hash[2];
};
static const u64 kRtcMagic = 0x314352424d534d4dull;  // "MMSMBRC1"

static bool cachePath(const u64 key[2], char* path, u64 bytes) {
  const char* own = getenv("MMSB_KERNEL_CACHE");
  const char* shared = getenv("XDG_CACHE_HOME");
  const char* home = getenv("HOME");
  char folder[512];
  if (own != nullptr && own[0] != 0) snprintf(folder, sizeof folder, "%s", own);
  else if (shared != nullptr && shared[0] == '/') snprintf(folder, sizeof folder, "%s/mmsb", shared);
  else if (home != nullptr && home[0] == '/') snprintf(folder, sizeof folder, "%s/.cache/mmsb", home);
  else return false;
  for (char* at = folder + 1;; at++) {  // create every folder of the path
    if (*at != '/' && *at != 0) continue;
    const char end = *at;
    *at = 0;
    mkdir(folder, 0700);
    *at = end;
    if (end == 0) break;
  }
  const int length =
      snprintf(path, bytes, "%s/%016llx%016llx.cubin", folder, (unsigned long long)key[0], (unsigned long long)key[1]);
  return length > 0 && u64(length) + 32 < bytes;
}

static char* readCache(const u64 key[2], u64* bytes) {
  char path[640];
  FILE* file = cachePath(key, path, sizeof path) ? fopen(path, "rb") : nullptr;
  if (file == nullptr) return nullptr;
  RtcFile head;
  char* image = nullptr;
  if (fread(&head, sizeof head, 1, file) == 1 && head.magic == kRtcMagic && memcmp(head.key, key, 16) == 0 &&
      head.bytes < 1u << 26) {
    image = static_cast<char*>(malloc(head.bytes + 1));
    u64 hash[2] = {0, 0};
    if (image != nullptr && fread(image, 1, head.bytes + 1, file) == head.bytes) hashText(image, head.bytes, hash);
    if (memcmp(hash, head.hash, 16) != 0) {
      free(image);
      image = nullptr;
    }
    *bytes = head.bytes;
  }
  fclose(file);
  return image;
}

// Writes a temporary file and renames it, so that a reader sees a complete file or none. Failures are
// ignored.
static void writeCache(const u64 key[2], const char* image, u64 bytes) {
  char path[640], beside[704];
  if (!cachePath(key, path, sizeof path)) return;
  snprintf(beside, sizeof beside, "%s.%d", path, int(getpid()));
  FILE* file = fopen(beside, "wb");
  if (file == nullptr) return;
  RtcFile head = {kRtcMagic, {key[0], key[1]}, bytes, {0, 0}};
  hashText(image, bytes, head.hash);
  const bool written = fwrite(&head, sizeof head, 1, file) == 1 && fwrite(image, 1, bytes, file) == bytes;
  if (fclose(file) != 0 || !written || rename(beside, path) != 0) remove(beside);
}

// ---- kernels ----------------------------------------------------------------------------------------------

struct Rtc {
  pthread_mutex_t lock;
  bool opened, usable;
  Nvrtc nvrtc;
  int major, minor;
  u64 sources[2];  // hash of the headers
  RtcKernel* kernels;
  u32 count, capacity;
  RtcCounts counts;
};
static Rtc rtc = {PTHREAD_MUTEX_INITIALIZER, false, false, {}, 0, 0, {0, 0}, nullptr, 0, 0, {}};

#if !defined(MMSB_CUDA_EMULATED) && CUDART_VERSION >= 12080
#define MMSB_RTC 1
static void* loadImage(const char* image) {
  cudaLibrary_t library;
  cudaKernel_t kernel;
  if (cudaLibraryLoadData(&library, image, nullptr, nullptr, 0, nullptr, nullptr, 0) == cudaSuccess) {
    if (cudaLibraryGetKernel(&kernel, library, kRtcName) == cudaSuccess) return reinterpret_cast<void*>(kernel);
    cudaLibraryUnload(library);
  }
  cudaGetLastError();
  return nullptr;
}

static void launchRtc(void* kernel, const MapDevice* map, const DeviceRanges* work, StoreSink sink, u32 blocks,
                      cudaStream_t stream) {
  void* arguments[] = {&map, &work, &sink};
  cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(kRtcThreads), arguments, 0,
                   stream);  // seen by cudaGetLastError
}
#else
static void* loadImage(const char*) { return nullptr; }
static void launchRtc(void*, const MapDevice*, const DeviceRanges*, StoreSink, u32, cudaStream_t) {}
#endif

static void* interpret(const char* reason) {
  rtc.counts.interpreted++;
  if (reason != rtc.counts.reason) snprintf(rtc.counts.reason, sizeof rtc.counts.reason, "%s", reason);
  return nullptr;
}

// Finds, loads or compiles a kernel. The lock must be held.
static void* kernelOf(const Text& source, u32 arch) {
  if (!rtc.opened) {
    rtc.opened = true;
    rtc.usable = openNvrtc(rtc.nvrtc) && rtc.nvrtc.version(&rtc.major, &rtc.minor) == 0;
    for (u32 i = 0; kRtcSources[i] != nullptr; i++) {
      u64 hash[2];
      hashText(kRtcSources[i], strlen(kRtcSources[i]), hash);
      for (u32 k = 0; k < 2; k++) rtc.sources[k] = rtc.sources[k] * 31 + hash[k];
    }
  }
  if (!rtc.usable) return interpret("libnvrtc was not found");
  if (kRtcSources[0] == nullptr) return interpret("this build has no sources for NVRTC");
  Text salted = {nullptr, 0, 0, false};
  put(salted, "%llx %llx %u %d.%d\n%s", (unsigned long long)rtc.sources[0], (unsigned long long)rtc.sources[1], arch,
      rtc.major, rtc.minor, source.data);
  u64 key[2];
  hashText(salted.data, salted.used, key);
  free(salted.data);
  if (salted.failed) return interpret("out of memory");
  for (u32 i = 0; i < rtc.count; i++) {
    if (memcmp(rtc.kernels[i].hash, key, 16) == 0) return rtc.kernels[i].kernel;
  }
  if (rtc.count == kRtcKernelsMax) return interpret("too many kernels are loaded");
  u64 bytes = 0;
  char* image = readCache(key, &bytes);
  const bool fresh = image == nullptr;
  if (fresh) image = compileSource(rtc.nvrtc, source.data, arch, &bytes, rtc.counts.reason, sizeof rtc.counts.reason);
  if (image == nullptr) return interpret(rtc.counts.reason);
  if (fresh) writeCache(key, image, bytes);
  void* kernel = loadImage(image);
  free(image);
  if (kernel == nullptr) return interpret("the driver rejected the code");
  if (rtc.count == rtc.capacity) {
    const u32 capacity = rtc.capacity == 0 ? 16 : 2 * rtc.capacity;
    void* larger = realloc(rtc.kernels, capacity * sizeof(RtcKernel));
    if (larger == nullptr) return interpret("out of memory");
    rtc.kernels = static_cast<RtcKernel*>(larger);
    rtc.capacity = capacity;
  }
  rtc.kernels[rtc.count++] = RtcKernel{{key[0], key[1]}, kernel};
  if (fresh) rtc.counts.compiled++;
  else rtc.counts.loaded++;
  return kernel;
}

// Returns the kernel of a prepared map step, or null if it is to be interpreted.
static void* rtcKernel(const Step& step, u32 arch) {
#ifdef MMSB_RTC
  if (step.out->elements < kRtcElements) return nullptr;
  Text source = {nullptr, 0, 0, false};
  put(source, "%s", kRtcHead);
  const bool good =
      putKernel(source, *static_cast<const MapState*>(step.state), kRtcName, step.natural, step.out->dtype);
  pthread_mutex_lock(&rtc.lock);
  void* const kernel = good ? kernelOf(source, arch) : interpret("the expression is too long");
  pthread_mutex_unlock(&rtc.lock);
  free(source.data);
  return kernel;
#else
  (void)step;
  (void)arch;
  return nullptr;
#endif
}

static RtcCounts rtcCounts() {
  pthread_mutex_lock(&rtc.lock);
  const RtcCounts counts = rtc.counts;
  pthread_mutex_unlock(&rtc.lock);
  return counts;
}

}  // namespace MMSB_NS
}  // namespace mmsb
