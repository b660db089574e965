// What the CUDA part of the build gives to the host part. A build without nvcc has none.
#pragma once
#include "core/part.cuh"

namespace mmsb {

struct Device;  // a context's side of the GPU

struct DevicePart {
  u32 (*deviceCount)();
  int32_t (*open)(const CpuPart& cpu, Device** out);
  void (*close)(Device* device);
  int32_t (*info)(Device* device, char* out, u64 capacity);
  u64 (*reservedBytes)(const Device* device);
  // Memory of a page whose descriptor fields are set; zeroed, then filled. Sets data, hashes and digest.
  int32_t (*createPage)(Device* device, PageSlot& slot, u64 fill);
  void (*destroyPage)(Device* device, PageSlot& slot);
  int32_t (*read)(Device* device, const PageSlot& slot, u64 offset, u64 bytes, void* to);
  int32_t (*load)(Device* device, PageSlot& slot, u64 offset, u64 bytes, const void* from);
  // `ranges` lie inside the page; `to` has room for all.
  int32_t (*gather)(Device* device, const PageSlot& slot, const Range* ranges, u32 count, void* to);
  // Before op->prepare: where the step is to run on the CPU, its device pages are replaced by mirrors in host memory.
  int32_t (*placeStep)(Device* device, Step& step);
  // After it: what the step needs on the device.
  int32_t (*prepareStep)(Device* device, Step& step);
  void (*releaseStep)(Device* device, Step& step);
  // As CpuPart::execute. A failure leaves the context unusable.
  int32_t (*execute)(Device* device, Exec& exec, const DeltaList& list, const u8* frames, u64 framesLength,
                     Step* const* steps, const u32* numbers, u32 count);
};

#ifdef MMSB_HAS_CUDA
extern const DevicePart kDevicePart;
#endif

// Page::flags: the page is a host copy of a device page, made for steps that run on the CPU. It is not reported.
static const u8 kPageMirror = 1;

}  // namespace mmsb
