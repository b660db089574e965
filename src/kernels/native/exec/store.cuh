// The only code that changes the bytes of a page during a call: it compares with the old bytes, writes,
// hashes and records what changed.
//
// Invariants: the recorded ranges are exactly the runs of elements whose bytes differ. The zero padding of a
// page is never written. Two threads may store into one page at once if they share no chunk, or if `hash` is
// off; then rehashRanges must follow when all have finished.
#pragma once
#include "core/digest.cuh"
#include "core/journal.cuh"
#include "core/ranges.cuh"
#include "exec/store_chunk.cuh"

namespace mmsb {
namespace MMSB_NS {

struct StoreOut {
  RangeSet changed;
  u64 digest[2];  // the caller adds it to the page's digest
  Arena* arena;
  Undo* undo;  // keeps old bytes, or null
  bool hash;
  bool ascending;  // runs are stored in ascending order
};

static inline StoreOut makeStoreOut(Arena* arena, bool hash) {
  StoreOut out;
  memset(&out, 0, sizeof out);
  out.arena = arena;
  out.hash = hash;
  out.ascending = true;
  return out;
}

static inline void pushChanged(StoreOut& out, u32 start, u32 count) {
  if (out.ascending) rangesPushAscending(out.changed, start, count, *out.arena);
  else rangesPush(out.changed, start, count, *out.arena);
}

// Compares 64 bytes. Bit i of the result is set if byte i belongs to an element that differs.
template <u32 SIZE>
static inline u64 diffMask(const u8* a, const u8* b) {
  u64 mask = 0;
#ifdef __AVX2__
  for (u32 at = 0; at < 64; at += 32) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + at));
    const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + at));
    mask |= u64(u32(_mm256_movemask_epi8(sameElements<SIZE>(x, y)))) << at;
  }
#else
  for (u32 at = 0; at < 64; at += 16) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + at));
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + at));
    __m128i same;
    if (SIZE == 1) same = _mm_cmpeq_epi8(x, y);
    else if (SIZE == 2) same = _mm_cmpeq_epi16(x, y);
    else same = _mm_cmpeq_epi32(x, y);
    if (SIZE == 8) same = _mm_and_si128(same, _mm_shuffle_epi32(same, 0xb1));
    mask |= u64(u32(_mm_movemask_epi8(same))) << at;
  }
#endif
  return ~mask;
}

// Records the runs of elements that differ between `now` and `next`; `element` is the number of the first
// element. All differences lie in the bytes [*lo, *hi). Returns false when nothing differs.
template <u32 SIZE>
static bool diffRuns(const u8* now, const u8* next, u32 bytes, u32 element, StoreOut& out, u32* lo, u32* hi) {
  u64 inRun = 0;  // all ones inside a run
  u32 runStart = 0, first = bytes, last = 0;
  const auto close = [&](u32 end) {
    if (first > runStart) first = runStart;
    last = end;
    pushChanged(out, element + runStart / SIZE, (end - runStart) / SIZE);
  };
  const auto scan = [&](u32 at, u64 mask) {
    if (mask == inRun) return;
    u64 edges = mask ^ (mask << 1 | (inRun & 1));
    while (edges != 0) {
      const u32 edge = at + u32(__builtin_ctzll(edges));
      edges &= edges - 1;
      if (inRun == 0) runStart = edge;
      else close(edge);
      inRun = ~inRun;
    }
  };
  const bool ahead = bytes >= kChunkBytes / 2;  // the next chunk is likely to be stored next
  u32 at = 0;
  for (; at + 64 <= bytes; at += 64) {
    if (ahead) __builtin_prefetch(now + at + kChunkBytes, 1);
    scan(at, diffMask<SIZE>(now + at, next + at));
  }
  if (at < bytes) {
    alignas(64) u8 a[64] = {}, b[64] = {};
    memcpy(a, now + at, bytes - at);
    memcpy(b, next + at, bytes - at);
    scan(at, diffMask<SIZE>(a, b));
  }
  if (inRun != 0) close(bytes);
  *lo = first;
  *hi = last;
  return last != 0;
}

static bool diffRunsOf(u32 size, const u8* now, const u8* next, u32 bytes, u32 element, StoreOut& out, u32* lo,
                       u32* hi) {
  if (bytes % 64 == 0 && bytes <= kChunkBytes) {
    const ChunkDiff diff = compareChunk(size, now, next, bytes);
    if (diff == CHUNK_SAME) return false;
    if (diff == CHUNK_ALL) {
      pushChanged(out, element, bytes / size);
      *lo = 0;
      *hi = bytes;
      return true;
    }
  }
  switch (size) {
    case 1: return diffRuns<1>(now, next, bytes, element, out, lo, hi);
    case 2: return diffRuns<2>(now, next, bytes, element, out, lo, hi);
    case 4: return diffRuns<4>(now, next, bytes, element, out, lo, hi);
    default: return diffRuns<8>(now, next, bytes, element, out, lo, hi);
  }
}

static void undoKeep(Undo& undo, const u8* old, u32 start, u32 count, u64 bytes, Arena& arena) {
  if (undo.used + bytes > undo.capacity) {
    const u64 capacity = 2 * undo.capacity + bytes + 64;
    u8* data = static_cast<u8*>(arenaAlloc(arena, capacity));
    if (data == nullptr) return;
    if (undo.used != 0) memcpy(data, undo.bytes, undo.used);
    undo.bytes = data;
    undo.capacity = capacity;
  }
  if (undo.spans.count == undo.spans.capacity && !rangesGrow(undo.spans, arena)) return;
  undo.spans.data[undo.spans.count++] = Range{start, count};
  memcpy(undo.bytes + undo.used, old, bytes);
  undo.used += bytes;
}

// Replaces the hash of a chunk and adds the difference to `digest`, which the caller adds to the page's
// digest.
static inline void exchangeHash(PageSlot& slot, u64 chunk, const u64 next[2], u64 digest[2]) {
  u64* hash = slot.hashes + 2 * chunk;
  u64 before[2], after[2];
  if (slot.page.bytes <= kChunkBytes) {  // the digest is the only chunk's share
    before[0] = slot.digest[0] + digest[0];
    before[1] = slot.digest[1] + digest[1];
  } else {
    chunkShare(chunk, hash, before);
  }
  hash[0] = next[0];
  hash[1] = next[1];
  chunkShare(chunk, hash, after);
  digest[0] += after[0] - before[0];
  digest[1] += after[1] - before[1];
}

// Writes bytes [lo, hi) of a chunk and updates its hash. `next` points to the new byte lo.
static inline void writeHashed(PageSlot& slot, u64 chunk, u32 lo, u32 hi, const u8* next, u64 digest[2]) {
  u8* base = slot.page.data + chunk * kChunkBytes;
  u64 hash[2] = {slot.hashes[2 * chunk], slot.hashes[2 * chunk + 1]};
  const u32 size = chunkBytesOf(slot.page, chunk);
  if ((hi - lo) * 2 < size) {
    const u32 first = lo / 32 * 4, end = (hi + 31) / 32 * 4;
    u64 old[2] = {0, 0};
    hashWords(base, first, end, old);
    memcpy(base + lo, next, hi - lo);
    hash[0] -= old[0];
    hash[1] -= old[1];
    hashWords(base, first, end, hash);
  } else if (hi - lo == size && size % 64 == 0) {
    copyHashed(base, next, size, hash);
  } else {
    memcpy(base + lo, next, hi - lo);
    hashChunk(base, size, hash);
  }
  exchangeHash(slot, chunk, hash, digest);
}

// Adds (sign 1) or subtracts (sign ~0) the contribution of one word to its chunk's hash.
static inline void addWord(u64 word, u32 index, u64 sign, u64 hash[2]) {
  const u32* key = kDigestKeys.key + 2 * index;
  const u32 lo = u32(word), hi = u32(word >> 32);
  hash[0] += sign * (u64(u32(lo + key[0])) * u32(hi + key[1]));
  hash[1] += sign * (u64(u32(lo + key[kKeyShift])) * u32(hi + key[kKeyShift + 1]));
}

static inline u64 loadWord(const u8* at) {
  u64 word;
  memcpy(&word, at, 8);
  return word;
}

// One bit per element of `size` bytes in a word: set if the element differs.
static inline u32 differingElements(u64 diff, u32 size) {
  if (size == 8) return diff != 0;
  if (size == 4) return u32(u32(diff) != 0) | u32(diff >> 32 != 0) << 1;
  u32 mask = 0;
  const u64 ones = size == 2 ? 0xffff : 0xff;
  for (u32 i = 0; i < 8 / size; i++) mask |= u32((diff >> (8 * size * i) & ones) != 0) << i;
  return mask;
}

// Stores at most kSmallBytes inside one chunk, word by word in registers. For small deltas to large pages.
static const u32 kSmallBytes = 16;
static void storeSmall(PageSlot& slot, u64 at, u32 bytes, const u8* src, StoreOut& out) {
  const u32 size = dtypeBytes(slot.page.dtype);
  const u64 end = at + bytes, base = at & ~7ull;
  const u64 chunk = at / kChunkBytes;
  const u32 words = u32((end - base + 7) / 8), perWord = 8 / size;
  u64 next[kSmallBytes / 8 + 1];
  u64 change[2] = {0, 0};
  u32 mask = 0;  // elements that differ, counted from `base`
  for (u32 w = 0; w < words; w++) {
    const u64 place = base + 8 * w;
    const u64 old = loadWord(slot.page.data + place);
    u64 word = old;
    if (place >= at && place + 8 <= end) {
      word = loadWord(src + (place - at));
    } else {
      const u64 from = place > at ? place : at, to = place + 8 < end ? place + 8 : end;
      for (u64 i = from; i < to; i++) {
        const u32 shift = u32(i - place) * 8;
        word = (word & ~(0xffull << shift)) | u64(src[i - at]) << shift;
      }
    }
    next[w] = word;
    if (word == old) continue;
    mask |= differingElements(word ^ old, size) << (w * perWord);
    const u32 index = u32(place % kChunkBytes / 8);
    addWord(old, index, ~0ull, change);
    addWord(word, index, 1, change);
  }
  if (mask == 0) return;
  const u32 element = u32(base / size);
  const u32 first = u32(__builtin_ctz(mask)), last = 31 - u32(__builtin_clz(mask));
  if (out.undo != nullptr) {
    undoKeep(*out.undo, slot.page.data + base + first * size, element + first, last + 1 - first,
             (last + 1 - first) * size, *out.arena);
  }
  if (out.arena->journal != nullptr) {
    const u64 from = base + first * size;
    journalKeep(*out.arena->journal, slot.page.id, from, slot.page.data + from, (last + 1 - first) * size);
  }
  for (u32 rest = mask, i = 0; rest != 0;) {
    const u32 skip = u32(__builtin_ctz(rest)), run = u32(__builtin_ctz(~(rest >> skip)));
    pushChanged(out, element + i + skip, run);
    rest = rest >> skip >> run;
    i += skip + run;
  }
  for (u32 w = 0; w < words; w++) memcpy(slot.page.data + base + 8 * w, &next[w], 8);
  const u64 hash[2] = {slot.hashes[2 * chunk] + change[0], slot.hashes[2 * chunk + 1] + change[1]};
  exchangeHash(slot, chunk, hash, out.digest);
}

// Stores a whole chunk whose first elements all differ, as in most full recomputes: compares, writes and
// hashes it part by part. Returns false, and does nothing, if they do not all differ.
static bool storeDifferent(PageSlot& slot, u64 chunk, u32 bytes, const u8* src, StoreOut& out) {
  const u32 size = dtypeBytes(slot.page.dtype);
  u8* base = slot.page.data + chunk * kChunkBytes;
  ChunkSums sums;
  const u32 done = copyDifferent(size, base, src, bytes, sums);
  if (done == 0) return false;
  const u32 element = u32(chunk * (kChunkBytes / size));
  pushChanged(out, element, done / size);
  if (done < bytes) {
    u32 lo, hi;
    diffRunsOf(size, base + done, src + done, bytes - done, element + done / size, out, &lo, &hi);
    copySummed(base, src, done, bytes, sums);
  }
  u64 hash[2];
  hashOfSums(sums, bytes, hash);
  exchangeHash(slot, chunk, hash, out.digest);
  return true;
}

// Stores `count` elements of the page's dtype at element `start`. src may be unaligned.
static void storeRun(PageSlot& slot, u32 start, u32 count, const u8* src, StoreOut& out) {
  const u32 size = dtypeBytes(slot.page.dtype);
  u64 at = u64(start) * size;
  const u64 end = at + u64(count) * size;
  if (out.hash && end - at <= kSmallBytes && at / kChunkBytes == (end - 1) / kChunkBytes && count != 0) {
    return storeSmall(slot, at, u32(end - at), src, out);
  }
  const bool kept = out.undo != nullptr || out.arena->journal != nullptr;
  while (at < end) {
    const u64 chunk = at / kChunkBytes;
    const u64 chunkEnd = (chunk + 1) * kChunkBytes;
    const u32 bytes = u32((end < chunkEnd ? end : chunkEnd) - at);
    const u32 element = u32(at / size);
    const bool whole = bytes % 64 == 0 && bytes == chunkBytesOf(slot.page, chunk) && at % kChunkBytes == 0 && out.hash;
    u32 lo, hi;
    if (whole && !kept && storeDifferent(slot, chunk, bytes, src, out)) {
      // Stored.
    } else if (diffRunsOf(size, slot.page.data + at, src, bytes, element, out, &lo, &hi)) {
      if (out.undo != nullptr) {
        undoKeep(*out.undo, slot.page.data + at + lo, element + lo / size, (hi - lo) / size, hi - lo, *out.arena);
      }
      Journal* journal = out.arena->journal;
      if (journal != nullptr) journalKeep(*journal, slot.page.id, at + lo, slot.page.data + at + lo, hi - lo);
      const u32 offset = u32(at % kChunkBytes);
      if (whole && (hi - lo) * 2 >= bytes) {  // writing the whole chunk is faster than most of it
        lo = 0;
        hi = bytes;
      }
      if (out.hash) writeHashed(slot, chunk, offset + lo, offset + hi, src + lo, out.digest);
      else memcpy(slot.page.data + at + lo, src + lo, hi - lo);
    }
    src += bytes;
    at += bytes;
  }
}

// Rehashes each chunk that the ranges of an ascending set touch.
static void rehashRanges(PageSlot& slot, const RangeSet& set, u64 digest[2]) {
  const u32 size = dtypeBytes(slot.page.dtype);
  u64 next = 0;  // first chunk that is not rehashed yet
  for (u32 i = 0; i < set.count; i++) {
    u64 chunk = u64(set.data[i].start) * size / kChunkBytes;
    const u64 last = ((u64(set.data[i].start) + set.data[i].count) * size - 1) / kChunkBytes;
    for (chunk = chunk > next ? chunk : next; chunk <= last; chunk++) rehashChunk(slot, chunk, digest);
    if (last + 1 > next) next = last + 1;
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
