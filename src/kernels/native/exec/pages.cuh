// Fills and loads pages outside of a call of execute, and updates their share of the state digest.
#pragma once
#include "exec/compute.cuh"
#include "exec/past.cuh"

namespace mmsb {
namespace MMSB_NS {

// Fills a zeroed page with copies of one element and sets its digest.
static void fillPage(PageSlot& slot, u64 bits) {
  Page& page = slot.page;
  const u32 size = dtypeBytes(page.dtype);
  if (page.dtype == BOOL) bits = (bits & 255) != 0;
  if (size < 8) bits &= (1ull << (8 * size)) - 1;
  if (bits == 0 || page.bytes == 0) return;
  u64 word = bits;
  for (u32 width = size; width < 8; width *= 2) word |= word << (8 * width);
  u64 at = 0;
  for (; at + 8 <= page.bytes; at += 8) memcpy(page.data + at, &word, 8);
  memcpy(page.data + at, &word, page.bytes - at);
  const u64 chunks = (page.bytes + kChunkBytes - 1) / kChunkBytes;
  u64 hash[2];
  hashChunk(page.data, chunkBytesOf(page, 0), hash);
  for (u64 chunk = 0; chunk < chunks; chunk++) {
    if (chunk + 1 == chunks) hashChunk(page.data + chunk * kChunkBytes, chunkBytesOf(page, chunk), hash);
    slot.hashes[2 * chunk] = hash[0];
    slot.hashes[2 * chunk + 1] = hash[1];
    u64 share[2];
    chunkShare(chunk, hash, share);
    addDigest(slot, share);
  }
}

// Writes raw bytes and rehashes the chunks they touch.
static void loadBytes(PageSlot& slot, u64 offset, const u8* src, u64 bytes) {
  if (bytes == 0) return;
  slot.loads++;
  forgetPast(slot);
  memcpy(slot.page.data + offset, src, bytes);
  u64 digest[2] = {0, 0};
  for (u64 chunk = offset / kChunkBytes; chunk <= (offset + bytes - 1) / kChunkBytes; chunk++) {
    rehashChunk(slot, chunk, digest);
  }
  addDigest(slot, digest);
}

// Brings the page's share of the state digest up to date, and `state` with it.
static void updateShare(PageSlot& slot, u64 state[2]) {
  u64 share[2];
  pageShare(slot.page, slot.digest, share);
  for (u32 half = 0; half < 2; half++) {
    state[half] += share[half] - slot.share[half];
    slot.share[half] = share[half];
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
