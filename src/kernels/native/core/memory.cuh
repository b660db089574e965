// Allocates host memory for pages: small blocks from size-class pools, large ones as mappings of their own.
// Host part only.
//
// Invariants: blocks are 64-byte aligned and zeroed. The system zeroes a mapping when it is first touched, so
// a large page costs nothing until it is written. Not thread-safe.
#pragma once
#include <sys/mman.h>

#include "core/op.cuh"

namespace mmsb {

static const u32 kSizeClasses = 64;

struct SizeClass {
  u32 size;
  u8* bump;
  u8* end;
  void* freed;  // free list, linked through the first word of each block
};

struct Slab {
  Slab* next;
  u64 size;
};

struct Memory {
  SizeClass classes[kSizeClasses];
  u32 classCount;
  Slab* slabs;
  u64 reserved;  // bytes mapped from the system
};

namespace MMSB_NS {

static const u64 kPooledBytesMax = 64 << 10;
static const u64 kSlabBytes = 1 << 20;
static const u64 kHugePageBytes = 2 << 20;

// Class sizes: 64, 128, ... 512, then steps of an eighth of a power of two.
static void memoryInit(Memory& memory) {
  memset(&memory, 0, sizeof memory);
  u32 size = 0, step = 64;
  while (size < kPooledBytesMax) {
    size += step;
    memory.classes[memory.classCount++].size = size;
    if (size >= 16 * step) step *= 2;
  }
}

// Mappings of 2 MiB and more are aligned to 2 MiB and ask for huge pages, for fewer TLB misses.
static void* systemMap(Memory& memory, u64 bytes) {
  const u64 extra = bytes >= kHugePageBytes ? kHugePageBytes : 0;
  void* at = mmap(nullptr, bytes + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  if (extra != 0) {
    u8* start = static_cast<u8*>(at);
    const u64 skip = (kHugePageBytes - reinterpret_cast<u64>(at) % kHugePageBytes) % kHugePageBytes;
    if (skip != 0) munmap(start, skip);
    if (skip != extra) munmap(start + skip + bytes, extra - skip);
    at = start + skip;
    madvise(at, bytes, MADV_HUGEPAGE);
  }
  memory.reserved += bytes;
  return at;
}

static SizeClass* classOf(Memory& memory, u64 bytes) {
  u32 low = 0, high = memory.classCount - 1;
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (memory.classes[middle].size >= bytes) high = middle;
    else low = middle + 1;
  }
  return &memory.classes[low];
}

static inline u64 mappedBytes(u64 bytes) { return (bytes + 4095) & ~4095ull; }

// Bytes to allocate for the chunk hashes of a page. Large ones are rounded up to whole huge pages.
static inline u64 hashBytes(u64 chunks) {
  const u64 bytes = 16 * chunks;
  return bytes < kHugePageBytes / 8 ? bytes : (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
}

// Returns zeroed bytes, or null. Blocks above kPooledBytesMax are mappings of their own.
static void* memoryAllocate(Memory& memory, u64 bytes) {
  if (bytes > kPooledBytesMax) return systemMap(memory, mappedBytes(bytes));
  SizeClass& pool = *classOf(memory, bytes);
  if (pool.freed != nullptr) {
    void* at = pool.freed;
    memcpy(&pool.freed, at, sizeof pool.freed);
    memset(at, 0, pool.size);
    return at;
  }
  if (u64(pool.end - pool.bump) < pool.size) {
    u8* slab = static_cast<u8*>(systemMap(memory, kSlabBytes));
    if (slab == nullptr) return nullptr;
    Slab* head = reinterpret_cast<Slab*>(slab);
    head->next = memory.slabs;
    head->size = kSlabBytes;
    memory.slabs = head;
    pool.bump = slab + 64;
    pool.end = slab + kSlabBytes;
  }
  void* at = pool.bump;
  pool.bump += pool.size;
  return at;
}

// Frees a block of memoryAllocate(bytes).
static void memoryFree(Memory& memory, void* at, u64 bytes) {
  if (at == nullptr) return;
  if (bytes > kPooledBytesMax) {
    munmap(at, mappedBytes(bytes));
    memory.reserved -= mappedBytes(bytes);
    return;
  }
  SizeClass& pool = *classOf(memory, bytes);
  memcpy(at, &pool.freed, sizeof pool.freed);
  pool.freed = at;
}

// Unmaps the pools. Large blocks must have been freed before.
static void memoryClose(Memory& memory) {
  for (Slab* slab = memory.slabs; slab != nullptr;) {
    Slab* next = slab->next;
    munmap(slab, slab->size);
    slab = next;
  }
  memory.slabs = nullptr;
}

}  // namespace MMSB_NS
}  // namespace mmsb
