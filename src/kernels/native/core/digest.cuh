// The digest of a page: docs/internals/FORMAT.md, section "Digest".
//
// Method: each chunk of 4 KiB is hashed by NH of UMAC (RFC 4418) with two Toeplitz-shifted keys, relative to
// the hash of an all-zero chunk. So zeros cost nothing, and one word's share can be replaced without hashing
// the rest. Each chunk's hash is mixed with its index by two rounds of MurmurHash3's finalizer; the digest is
// the sum. All sums are integer sums, so the order of work never matters.
#pragma once
#include "core/op.cuh"
#include "core/page.cuh"
#ifndef __CUDACC__
#include <immintrin.h>
#endif

namespace mmsb {
namespace MMSB_NS {

static const u32 kChunkWords = kChunkBytes / 8;
static const u32 kKeyShift = 8;  // distance in u32 keys between the two hash words
static const u32 kKeyCount = kChunkBytes / 4 + kKeyShift;

struct DigestKeys {
  alignas(64) u32 key[kKeyCount];
  u64 zero[2][kChunkWords + 1];  // the sum over the first n words when they are all zero
};

static constexpr u64 splitmix64(u64& state) {
  u64 z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static constexpr DigestKeys makeDigestKeys() {
  DigestKeys keys{};
  u64 state = 0x4d4d53422d763121ull;  // "MMSB-v1!"
  for (u32 i = 0; i < kKeyCount; i += 2) {
    const u64 word = splitmix64(state);
    keys.key[i] = u32(word);
    keys.key[i + 1] = u32(word >> 32);
  }
  for (u32 lane = 0; lane < 2; lane++) {
    for (u32 w = 0; w < kChunkWords; w++) {
      const u32 at = 2 * w + lane * kKeyShift;
      keys.zero[lane][w + 1] = keys.zero[lane][w] + u64(keys.key[at]) * keys.key[at + 1];
    }
  }
  return keys;
}

static constexpr DigestKeys kDigestKeys = makeDigestKeys();

static MMSB_HD inline u64 finalize64(u64 x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

// Mixes an index into a 128-bit value. A bijection for each index.
static MMSB_HD inline void mix128(u64 index, u64& lo, u64& hi) {
  const u64 x = finalize64(lo + (index + 1) * 0x9e3779b97f4a7c15ull);
  const u64 y = finalize64((hi ^ x) + 0xd1b54a32d192ed03ull);
  lo = finalize64(x + y);
  hi = y;
}

// The share of a chunk in its page's digest. The share of an all-zero chunk is 0.
static MMSB_HD inline void chunkShare(u64 chunk, const u64 hash[2], u64 share[2]) {
  share[0] = hash[0];
  share[1] = hash[1];
  if ((hash[0] | hash[1]) != 0) mix128(chunk, share[0], share[1]);
}

// The share of a page in the state digest.
static MMSB_HD inline void pageShare(const Page& page, const u64 digest[2], u64 share[2]) {
  share[0] = digest[0] + page.bytes;
  share[1] = digest[1];
  mix128(u64(page.id) | u64(page.dtype) << 32, share[0], share[1]);
}

static inline u32 chunkBytesOf(const Page& page, u64 chunk) {
  const u64 left = page.bytes - chunk * kChunkBytes;
  return left < kChunkBytes ? u32(left) : kChunkBytes;
}

#ifndef __CUDACC__  // loops for the CPU; every x86-64 has SSE2
// Adds the words [first, end) of a chunk to its hash. Both bounds are multiples of 4.
static inline void hashWords(const u8* chunk, u32 first, u32 end, u64 hash[2]) {
  const u32* key = kDigestKeys.key;
#ifdef __AVX2__
  __m256i sum0 = _mm256_setzero_si256(), sum1 = _mm256_setzero_si256();
  if (first < end) {
    __m256i k0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(key + 2 * first));
    for (u32 w = first; w < end; w += 4) {
      const __m256i m = _mm256_load_si256(reinterpret_cast<const __m256i*>(chunk + 8 * w));
      const __m256i k1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(key + 2 * w + kKeyShift));
      const __m256i t0 = _mm256_add_epi32(m, k0), t1 = _mm256_add_epi32(m, k1);
      sum0 = _mm256_add_epi64(sum0, _mm256_mul_epu32(t0, _mm256_srli_epi64(t0, 32)));
      sum1 = _mm256_add_epi64(sum1, _mm256_mul_epu32(t1, _mm256_srli_epi64(t1, 32)));
      k0 = k1;
    }
  }
  const __m128i a = _mm_add_epi64(_mm256_castsi256_si128(sum0), _mm256_extracti128_si256(sum0, 1));
  const __m128i b = _mm_add_epi64(_mm256_castsi256_si128(sum1), _mm256_extracti128_si256(sum1, 1));
#else
  __m128i a = _mm_setzero_si128(), b = _mm_setzero_si128();
  for (u32 w = first; w < end; w += 2) {
    const __m128i m = _mm_load_si128(reinterpret_cast<const __m128i*>(chunk + 8 * w));
    const __m128i t0 = _mm_add_epi32(m, _mm_load_si128(reinterpret_cast<const __m128i*>(key + 2 * w)));
    const __m128i t1 = _mm_add_epi32(m, _mm_load_si128(reinterpret_cast<const __m128i*>(key + 2 * w + kKeyShift)));
    a = _mm_add_epi64(a, _mm_mul_epu32(t0, _mm_srli_epi64(t0, 32)));
    b = _mm_add_epi64(b, _mm_mul_epu32(t1, _mm_srli_epi64(t1, 32)));
  }
#endif
  hash[0] += u64(_mm_cvtsi128_si64(a)) + u64(_mm_cvtsi128_si64(_mm_unpackhi_epi64(a, a)));
  hash[1] += u64(_mm_cvtsi128_si64(b)) + u64(_mm_cvtsi128_si64(_mm_unpackhi_epi64(b, b)));
}

// The hash of the chunk that starts at `chunk` and has `bytes` bytes, padded with zeros to a multiple of 64.
static inline void hashChunk(const u8* chunk, u32 bytes, u64 hash[2]) {
  const u32 words = (bytes + 31) / 32 * 4;
  hash[0] = 0 - kDigestKeys.zero[0][words];
  hash[1] = 0 - kDigestKeys.zero[1][words];
  hashWords(chunk, 0, words, hash);
}

// Hashes a chunk again and adds the difference to `digest`, which the caller adds to the page's digest.
static inline void rehashChunk(PageSlot& slot, u64 chunk, u64 digest[2]) {
  u64* hash = slot.hashes + 2 * chunk;
  u64 before[2], after[2];
  chunkShare(chunk, hash, before);
  hashChunk(slot.page.data + chunk * kChunkBytes, chunkBytesOf(slot.page, chunk), hash);
  chunkShare(chunk, hash, after);
  digest[0] += after[0] - before[0];
  digest[1] += after[1] - before[1];
}
#endif

}  // namespace MMSB_NS
}  // namespace mmsb
