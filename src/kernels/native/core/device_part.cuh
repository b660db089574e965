// The interface of the CUDA part of the build to the host part. A build without nvcc has no CUDA part.
#pragma once
#include "core/part.cuh"

namespace mmsb {

struct Device;  // the GPU state of a context

struct DevicePart {
  u32 (*deviceCount)();
  int32_t (*open)(const CpuPart& cpu, Device** out);
  void (*close)(Device* device);
  int32_t (*info)(Device* device, char* out, u64 capacity);
  u64 (*reservedBytes)(const Device* device);
  // Allocates and fills the memory of a page whose descriptor fields are set. Sets data, hashes and digest.
  int32_t (*createPage)(Device* device, PageSlot& slot, u64 fill);
  void (*destroyPage)(Device* device, PageSlot& slot);
  int32_t (*read)(Device* device, const PageSlot& slot, u64 offset, u64 bytes, void* to);
  int32_t (*load)(Device* device, PageSlot& slot, u64 offset, u64 bytes, const void* from);
  // Copies the elements of `ranges`, which lie inside the page, one after another to `to`.
  int32_t (*gather)(Device* device, const PageSlot& slot, const Range* ranges, u32 count, void* to);
  // Called before op->prepare. Decides where the step runs; for the CPU, replaces its device pages by mirrors
  // in host memory.
  int32_t (*placeStep)(Device* device, Step& step);
  // Called after op->prepare. Uploads what the step needs on the device.
  int32_t (*prepareStep)(Device* device, Step& step);
  void (*releaseStep)(Device* device, Step& step);
  // As CpuPart::execute. A failure leaves the context unusable.
  int32_t (*execute)(Device* device, Exec& exec, const DeltaList& list, const u8* frames, u64 framesLength,
                     Step* const* steps, const u32* numbers, u32 count);
};

#ifdef MMSB_HAS_CUDA
extern const DevicePart kDevicePart;
#endif

// A flag of Page::flags: the page is a host copy of a device page, for steps that run on the CPU. Mirrors are
// not reported.
static const u8 kPageMirror = 1;

}  // namespace mmsb
