// Counts the sound log records at the start of a window of a segment (docs/internals/FORMAT.md, "Log"), so
// that a reader needs one call per window instead of one per record. Host part only.
//
// Invariant: it counts exactly the records that src/store/log/segment-reader.ts would accept. It does not say
// what is wrong with the first record that is not sound. It reads nothing outside the window.
#pragma once
#include "abi/crc32c.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kRecordMagic = 0x4352534d;  // "MSRC"
static const u64 kRecordHeaderBytes = 64;

static u64 logPadded(u64 bytes) { return (bytes + 7) & ~u64(7); }

static u32 soundRecords(const u8* bytes, u64 length, u64 firstEpoch, u32 recordSeed) {
  u32 count = 0;
  for (u64 at = 0; at + kRecordHeaderBytes <= length; count++) {
    const u8* head = bytes + at;
    u32 magic, crc, byteLength, frames, touched;
    u64 epoch;
    memcpy(&magic, head, 4);
    memcpy(&crc, head + 4, 4);
    memcpy(&byteLength, head + 12, 4);
    memcpy(&epoch, head + 16, 8);
    memcpy(&frames, head + 52, 4);
    memcpy(&touched, head + 56, 4);
    if (magic != kRecordMagic || epoch != firstEpoch + count) break;
    if (byteLength != kRecordHeaderBytes + logPadded(frames) + logPadded(u64(touched) * 4)) break;
    if (byteLength > length - at || crc32c(head + 8, byteLength - 8, recordSeed) != crc) break;
    at += byteLength;
  }
  return count;
}

}  // namespace MMSB_NS
}  // namespace mmsb
