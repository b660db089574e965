// Fast paths for whole chunks and small pages: comparing, and copying with hashing, at the speed of the
// cache. Full recomputes spend most of their time here. Lengths are multiples of 64 bytes.
//
// Invariants: results equal those of the general code in store.cuh and core/digest.cuh. Where there is no
// fast path, the answer is CHUNK_MIXED and the general code does the work.
#pragma once
#include "core/digest.cuh"

namespace mmsb {
namespace MMSB_NS {

enum ChunkDiff : u32 { CHUNK_SAME, CHUNK_ALL, CHUNK_MIXED };

#ifdef __AVX2__

template <u32 SIZE>
static inline __m256i sameElements(__m256i x, __m256i y) {
  if (SIZE == 1) return _mm256_cmpeq_epi8(x, y);
  if (SIZE == 2) return _mm256_cmpeq_epi16(x, y);
  if (SIZE == 4) return _mm256_cmpeq_epi32(x, y);
  return _mm256_cmpeq_epi64(x, y);
}

// Tells whether all elements are equal, all differ, or neither. Prefetches the next chunk meanwhile, because
// the processor's own prefetching stops at the end of a memory page, which is a chunk.
template <u32 SIZE>
static ChunkDiff compareChunkOf(const u8* now, const u8* next, u32 bytes) {
  __m256i any = _mm256_setzero_si256(), all = _mm256_set1_epi8(-1);
  for (u32 part = 0; part < bytes; part += 512) {
    const u32 end = part + 512 < bytes ? part + 512 : bytes;
    for (u32 line = 0; line < 512; line += 64) __builtin_prefetch(now + part + line + kChunkBytes, 1);
    for (u32 at = part; at < end; at += 32) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(now + at));
      const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(next + at));
      const __m256i same = sameElements<SIZE>(x, y);
      any = _mm256_or_si256(any, same);
      all = _mm256_and_si256(all, same);
    }
    const bool noneDiffer = _mm256_movemask_epi8(all) == -1;
    if (!noneDiffer && _mm256_testz_si256(any, any) == 0) return CHUNK_MIXED;
  }
  return _mm256_movemask_epi8(all) == -1 ? CHUNK_SAME : CHUNK_ALL;
}
static inline ChunkDiff compareChunk(u32 size, const u8* now, const u8* next, u32 bytes) {
  switch (size) {
    case 1: return compareChunkOf<1>(now, next, bytes);
    case 2: return compareChunkOf<2>(now, next, bytes);
    case 4: return compareChunkOf<4>(now, next, bytes);
    default: return compareChunkOf<8>(now, next, bytes);
  }
}

// The two running sums of a chunk's hash.
struct ChunkSums {
  __m256i sum0, sum1;
};

// Copies bytes [at, end) of a chunk, both multiples of 64, and adds them to the sums.
static inline void copySummed(u8* to, const u8* from, u32 at, u32 end, ChunkSums& sums) {
  const u32* key = kDigestKeys.key;
  __m256i sum0 = sums.sum0, sum1 = sums.sum1;
  __m256i k0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(key + at / 4));
  for (; at < end; at += 64) {
    const __m256i m0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at));
    const __m256i m1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at + 32));
    const __m256i k1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(key + at / 4 + 8));
    const __m256i k2 = _mm256_load_si256(reinterpret_cast<const __m256i*>(key + at / 4 + 16));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + at), m0);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + at + 32), m1);
    const __m256i a0 = _mm256_add_epi32(m0, k0), b0 = _mm256_add_epi32(m0, k1);
    const __m256i a1 = _mm256_add_epi32(m1, k1), b1 = _mm256_add_epi32(m1, k2);
    sum0 = _mm256_add_epi64(sum0, _mm256_mul_epu32(a0, _mm256_srli_epi64(a0, 32)));
    sum1 = _mm256_add_epi64(sum1, _mm256_mul_epu32(b0, _mm256_srli_epi64(b0, 32)));
    sum0 = _mm256_add_epi64(sum0, _mm256_mul_epu32(a1, _mm256_srli_epi64(a1, 32)));
    sum1 = _mm256_add_epi64(sum1, _mm256_mul_epu32(b1, _mm256_srli_epi64(b1, 32)));
    k0 = k2;
  }
  sums = {sum0, sum1};
}

static inline void hashOfSums(const ChunkSums& sums, u32 bytes, u64 hash[2]) {
  alignas(32) u64 lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums.sum0);
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes + 4), sums.sum1);
  hash[0] = lanes[0] + lanes[1] + lanes[2] + lanes[3] - kDigestKeys.zero[0][bytes / 8];
  hash[1] = lanes[4] + lanes[5] + lanes[6] + lanes[7] - kDigestKeys.zero[1][bytes / 8];
}

// Copies and hashes a whole chunk, or a whole page of at most one chunk.
static void copyHashed(u8* to, const u8* from, u32 bytes, u64 hash[2]) {
  ChunkSums sums = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  copySummed(to, from, 0, bytes, sums);
  hashOfSums(sums, bytes, hash);
}

// Copies and hashes as long as every element differs, so that old bytes are loaded while new ones are hashed.
// Returns the number of bytes done; the rest is untouched.
template <u32 SIZE>
static u32 copyDifferentOf(u8* to, const u8* from, u32 bytes, ChunkSums& sums) {
  sums = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (u32 part = 0; part < bytes; part += 512) {
    const u32 end = part + 512 < bytes ? part + 512 : bytes;
    __m256i any = _mm256_setzero_si256();
    for (u32 at = part; at < end; at += 64) {
      __builtin_prefetch(to + at + kChunkBytes, 1);
      for (u32 half = at; half < at + 64; half += 32) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to + half));
        const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + half));
        any = _mm256_or_si256(any, sameElements<SIZE>(x, y));
      }
    }
    if (_mm256_testz_si256(any, any) == 0) return part;
    copySummed(to, from, part, end, sums);
  }
  return bytes;
}
static inline u32 copyDifferent(u32 size, u8* to, const u8* from, u32 bytes, ChunkSums& sums) {
  switch (size) {
    case 1: return copyDifferentOf<1>(to, from, bytes, sums);
    case 2: return copyDifferentOf<2>(to, from, bytes, sums);
    case 4: return copyDifferentOf<4>(to, from, bytes, sums);
    default: return copyDifferentOf<8>(to, from, bytes, sums);
  }
}

#else

struct ChunkSums {};
static inline ChunkDiff compareChunk(u32, const u8*, const u8*, u32) { return CHUNK_MIXED; }
static inline u32 copyDifferent(u32, u8*, const u8*, u32, ChunkSums&) { return 0; }
static inline void copySummed(u8*, const u8*, u32, u32, ChunkSums&) {}
static inline void hashOfSums(const ChunkSums&, u32, u64*) {}
static void copyHashed(u8* to, const u8* from, u32 bytes, u64 hash[2]) {
  memcpy(to, from, bytes);
  hashChunk(to, bytes, hash);
}

#endif

static_assert(kKeyShift == 8, "copyHashed takes the second hash's keys 32 bytes on");

}  // namespace MMSB_NS
}  // namespace mmsb
