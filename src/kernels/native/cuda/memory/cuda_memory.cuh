// Device memory: size-class pools over large allocations, and buffers that grow.
//
// Invariants: blocks are 256-byte aligned, and zeroed in stream order. The bookkeeping is on the host. Not
// thread-safe.
#pragma once
#include "cuda/memory/cuda_api.cuh"

namespace mmsb {

struct DeviceBlocks {  // freed blocks of one size
  void** data;
  u32 count, capacity;
};

struct DeviceSlabs {
  void** data;
  u32 count, capacity;
};

static const u32 kDeviceClasses = 12;  // 256 bytes, 512, ... 512 KiB

struct DevicePools {
  DeviceBlocks freed[kDeviceClasses];
  u8* bump[kDeviceClasses];
  u8* end[kDeviceClasses];
  DeviceSlabs slabs;
  u64 reserved;
  cudaStream_t stream;
};

// A pinned host buffer and a device buffer of the same size.
struct TwinBuffer {
  u8* host;
  u8* device;
  u64 used, capacity;
};

namespace MMSB_NS {

static const u64 kDeviceSlabBytes = 8 << 20;
static const u64 kDevicePooledMax = 256ull << (kDeviceClasses - 1);

static inline u32 deviceClassOf(u64 bytes) {
  u32 number = 0;
  while ((256ull << number) < bytes) number++;
  return number;
}

static bool pushPointer(void*** data, u32* count, u32* capacity, void* pointer) {
  if (*count == *capacity) {
    const u32 wanted = *capacity == 0 ? 16 : *capacity * 2;
    void* larger = realloc(*data, wanted * sizeof(void*));
    if (larger == nullptr) return false;
    *data = static_cast<void**>(larger);
    *capacity = wanted;
  }
  (*data)[(*count)++] = pointer;
  return true;
}

static int32_t deviceSlab(DevicePools& pools, u32 number) {
  void* slab = nullptr;
  MMSB_CUDA(cudaMalloc(&slab, kDeviceSlabBytes));
  if (!pushPointer(&pools.slabs.data, &pools.slabs.count, &pools.slabs.capacity, slab)) {
    cudaFree(slab);
    return fail(MMSB_ERR_MEMORY, "no memory for the bookkeeping of device memory");
  }
  pools.reserved += kDeviceSlabBytes;
  pools.bump[number] = static_cast<u8*>(slab);
  pools.end[number] = pools.bump[number] + kDeviceSlabBytes;
  MMSB_CUDA(cudaMemsetAsync(slab, 0, kDeviceSlabBytes, pools.stream));
  return MMSB_OK;
}

static int32_t deviceAllocate(DevicePools& pools, u64 bytes, void** at) {
  if (bytes > kDevicePooledMax) {
    MMSB_CUDA(cudaMalloc(at, bytes));
    pools.reserved += bytes;
    MMSB_CUDA(cudaMemsetAsync(*at, 0, bytes, pools.stream));
    return MMSB_OK;
  }
  const u32 number = deviceClassOf(bytes);
  const u64 size = 256ull << number;
  DeviceBlocks& freed = pools.freed[number];
  if (freed.count != 0) {
    *at = freed.data[--freed.count];
    MMSB_CUDA(cudaMemsetAsync(*at, 0, size, pools.stream));
    return MMSB_OK;
  }
  if (u64(pools.end[number] - pools.bump[number]) < size) MMSB_TRY(deviceSlab(pools, number));
  *at = pools.bump[number];
  pools.bump[number] += size;
  return MMSB_OK;
}

// The block must not be in use. (The stream is idle between calls of the ABI.)
static void deviceFree(DevicePools& pools, void* at, u64 bytes) {
  if (at == nullptr) return;
  if (bytes > kDevicePooledMax) {
    cudaFree(at);
    pools.reserved -= bytes;
    return;
  }
  DeviceBlocks& freed = pools.freed[deviceClassOf(bytes)];
  pushPointer(&freed.data, &freed.count, &freed.capacity,
              at);  // without memory for the list, the block is lost until close
}

static void devicePoolsClose(DevicePools& pools) {
  for (u32 i = 0; i < pools.slabs.count; i++) cudaFree(pools.slabs.data[i]);
  free(pools.slabs.data);
  for (u32 i = 0; i < kDeviceClasses; i++) free(pools.freed[i].data);
}

// Grows both buffers to `bytes` and keeps the content of the host side.
static int32_t twinReserve(TwinBuffer& twin, u64 bytes) {
  if (bytes <= twin.capacity) return MMSB_OK;
  const u64 capacity = bytes * 2 < (1 << 20) ? 1 << 20 : bytes * 2;
  void* host = nullptr;
  void* device = nullptr;
  MMSB_CUDA(cudaMallocHost(&host, capacity));
  const int32_t status = cudaStatus(cudaMalloc(&device, capacity), "cudaMalloc of a staging buffer");
  if (status != MMSB_OK) {
    cudaFreeHost(host);
    return status;
  }
  if (twin.used != 0) memcpy(host, twin.host, twin.used);
  if (twin.host != nullptr) {
    cudaFreeHost(twin.host);
    cudaFree(twin.device);
  }
  twin.host = static_cast<u8*>(host);
  twin.device = static_cast<u8*>(device);
  twin.capacity = capacity;
  return MMSB_OK;
}

static void twinClose(TwinBuffer& twin) {
  if (twin.host == nullptr) return;
  cudaFreeHost(twin.host);
  cudaFree(twin.device);
}

// Appends `bytes` at a multiple of 16; *offset is the place on both sides.
static int32_t twinPut(TwinBuffer& twin, const void* data, u64 bytes, u64* offset) {
  const u64 at = (twin.used + 15) & ~15ull;
  MMSB_TRY(twinReserve(twin, at + bytes));
  if (data != nullptr && bytes != 0) memcpy(twin.host + at, data, bytes);
  twin.used = at + bytes;
  *offset = at;
  return MMSB_OK;
}

}  // namespace MMSB_NS
}  // namespace mmsb
