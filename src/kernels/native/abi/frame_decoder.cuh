// Decodes frames (docs/internals/FORMAT.md) into delta records (core/delta.cuh) and checks every bound before
// anything is applied. Host part only: it runs once per call, before any kernel.
#pragma once
#include "abi/context.cuh"
#include "core/delta.cuh"

namespace mmsb {
namespace MMSB_NS {

static inline u16 load16(const u8* at) {
  u16 value;
  memcpy(&value, at, 2);
  return value;
}
static inline u32 load32(const u8* at) {
  u32 value;
  memcpy(&value, at, 4);
  return value;
}
static inline u64 load64(const u8* at) {
  u64 value;
  memcpy(&value, at, 8);
  return value;
}

static inline u64 pad8(u64 bytes) { return (bytes + 7) & ~7ull; }

static const u32 kFrameMagic = 0x3146534d;
static const u32 kFrameHeaderBytes = 32;
static const u32 kDeltaHeaderBytes = 32;
static const u32 kCommandDelta = 4;

#define MMSB_REFUSE(...) return fail(MMSB_ERR_FRAME, __VA_ARGS__)

static int32_t checkIndices(Delta& delta, u32 elements) {
  u32 previous = 0;
  bool ascending = true;
  for (u32 i = 0; i < delta.count; i++) {
    const u32 index = load32(delta.where + 4ull * i);
    if (index >= elements) {
      MMSB_REFUSE("index %u of a sparse delta is out of range: the page has %u elements", index, elements);
    }
    if (i != 0 && index <= previous) ascending = false;
    previous = index;
  }
  delta.ascending = ascending;
  return MMSB_OK;
}

static u64 countBits(const u8* bits, u32 count) {
  u64 sum = 0;
  u32 i = 0;
  for (; i + 64 <= count; i += 64) sum += u64(__builtin_popcountll(load64(bits + i / 8)));
  for (; i + 8 <= count; i += 8) sum += u64(__builtin_popcount(bits[i / 8]));
  if (i < count) sum += u64(__builtin_popcount(bits[i / 8] & ((1u << (count - i)) - 1)));
  return sum;
}

static int32_t checkRuns(const Delta& delta) {
  u64 covered = 0, taken = 0;
  for (u32 i = 0; i < delta.runCount; i++) {
    const u64 skip = load32(delta.where + 8ull * i), take = load32(delta.where + 8ull * i + 4);
    covered += skip + take;
    taken += take;
    if (covered > delta.count) MMSB_REFUSE("runs of a mask cover more than its %u elements", delta.count);
  }
  if (taken != delta.valueCount) {
    MMSB_REFUSE("a mask selects %llu elements, not %u", (unsigned long long)taken, delta.valueCount);
  }
  return MMSB_OK;
}

// `payload` has `length` bytes. Sets where and values.
static int32_t checkPayload(Delta& delta, u32 encoding, const u8* payload, u64 length) {
  const Page& page = delta.slot->page;
  const u64 valueBytes = u64(delta.valueCount) * dtypeBytes(page.dtype);
  u64 head = 0;
  delta.where = payload;
  if (delta.kind == DELTA_SPARSE) {
    if (encoding != 4) MMSB_REFUSE("sparse indices must have 4 bytes, not %u", encoding);
    if (delta.offset != 0) MMSB_REFUSE("a sparse delta must not have an offset");
    head = pad8(4ull * delta.count);
  } else if (delta.kind == DELTA_MASKED) {
    if (encoding > 1) MMSB_REFUSE("unknown mask encoding %u", encoding);
    delta.runLength = u8(encoding);
    if (encoding == 0) {
      head = pad8((u64(delta.count) + 7) / 8);
    } else {
      if (length < 8) MMSB_REFUSE("a run-length mask is too short for its header");
      delta.runCount = load32(payload);
      delta.where = payload + 8;
      head = 8 + 8ull * delta.runCount;
    }
  } else if (encoding != 0) {
    MMSB_REFUSE("unknown dense encoding %u", encoding);
  }
  if (head + valueBytes != length) {
    MMSB_REFUSE("the payload of a delta has %llu bytes, not %llu", (unsigned long long)length,
                (unsigned long long)(head + valueBytes));
  }
  delta.values = payload + head;
  if (delta.kind == DELTA_SPARSE) return checkIndices(delta, page.elements);
  if (delta.kind == DELTA_DENSE) return MMSB_OK;
  if (delta.runLength) return checkRuns(delta);
  const u64 bits = countBits(delta.where, delta.count);
  if (bits != delta.valueCount) {
    MMSB_REFUSE("a mask has %llu set bits, not %u", (unsigned long long)bits, delta.valueCount);
  }
  return MMSB_OK;
}

// `command` has `length` bytes, a multiple of 8.
static int32_t decodeDelta(mmsb_ctx& ctx, const u8* command, u64 length, Delta& delta) {
  if (length < kDeltaHeaderBytes) MMSB_REFUSE("a delta of %llu bytes is too short", (unsigned long long)length);
  const u32 pageId = load32(command + 8);
  PageSlot* slot = pageOf(ctx, pageId);
  if (slot == nullptr) MMSB_REFUSE("a delta for page %u, which does not exist", pageId);
  delta.slot = slot;
  delta.kind = command[12];
  delta.merge = command[13];
  delta.offset = load32(command + 16);
  delta.count = load32(command + 20);
  delta.valueCount = load32(command + 24);
  delta.runCount = 0;
  delta.runLength = 0;
  delta.ascending = 1;
  const u64 payloadLength = load32(command + 28);
  const Page& page = slot->page;
  if (delta.kind > DELTA_MASKED) MMSB_REFUSE("unknown delta kind %u", delta.kind);
  if (delta.merge >= MERGE_COUNT) MMSB_REFUSE("unknown merge %u", delta.merge);
  if (command[14] != page.dtype) {
    MMSB_REFUSE("a delta of dtype %u for page %u of dtype %u", command[14], pageId, page.dtype);
  }
  if (delta.merge >= MERGE_AND && page.dtype >= F32) MMSB_REFUSE("a bitwise merge of floats");
  if (pad8(payloadLength) != length - kDeltaHeaderBytes) {
    MMSB_REFUSE("the payload of a delta does not fit the length of its command");
  }
  if (delta.kind != DELTA_MASKED && delta.valueCount != delta.count) {
    MMSB_REFUSE("a delta has %u values for %u elements", delta.valueCount, delta.count);
  }
  if (delta.kind != DELTA_SPARSE && u64(delta.offset) + delta.count > page.elements) {
    MMSB_REFUSE("elements %u + %u are out of range: of %u, in page %u", delta.offset, delta.count, page.elements,
                pageId);
  }
  return checkPayload(delta, command[15], command + kDeltaHeaderBytes, payloadLength);
}

static int32_t pushDelta(DeltaList& list, const Delta& delta) {
  if (list.count == list.capacity) {
    const u64 capacity = list.capacity == 0 ? 256 : list.capacity * 2;
    void* data = realloc(list.data, capacity * sizeof(Delta));
    if (data == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for %llu deltas", (unsigned long long)capacity);
    list.data = static_cast<Delta*>(data);
    list.capacity = capacity;
  }
  list.data[list.count++] = delta;
  list.valueBytes += u64(delta.valueCount) * dtypeBytes(delta.slot->page.dtype);
  return MMSB_OK;
}

static int32_t decodeFrame(mmsb_ctx& ctx, const u8* frame, u64 length, DeltaList& list) {
  const u32 commands = load32(frame + 12);
  u64 at = kFrameHeaderBytes + 16ull * load32(frame + 16);
  at += pad8(load16(frame + 20)) + pad8(load16(frame + 22)) + pad8(load32(frame + 24));
  for (u32 i = 0; i < commands; i++) {
    if (at + 8 > length) MMSB_REFUSE("a frame ends before its command %u of %u", i, commands);
    const u64 commandLength = load32(frame + at + 4);
    if (commandLength < 8 || commandLength % 8 != 0 || commandLength > length - at) {
      MMSB_REFUSE("command %u has length %llu, but %llu bytes are left", i, (unsigned long long)commandLength,
                  (unsigned long long)(length - at));
    }
    if (load16(frame + at) == kCommandDelta) {
      Delta delta;
      int32_t status = decodeDelta(ctx, frame + at, commandLength, delta);
      if (status == MMSB_OK && delta.count != 0) status = pushDelta(list, delta);
      if (status != MMSB_OK) return status;
    }
    at += commandLength;
  }
  if (at != length) {
    MMSB_REFUSE("a frame has %llu bytes after its commands",
                (unsigned long long)(length - (at < length ? at : length)));
  }
  return MMSB_OK;
}

// Fills `list` (emptied first) with the deltas of all frames, in order.
static int32_t decodeFrames(mmsb_ctx& ctx, const u8* frames, u64 length, DeltaList& list) {
  list.count = 0;
  list.valueBytes = 0;
  u64 at = 0;
  while (at < length) {
    if (length - at < kFrameHeaderBytes) {
      MMSB_REFUSE("%llu bytes are too short for a frame", (unsigned long long)(length - at));
    }
    const u8* frame = frames + at;
    const u64 frameLength = load32(frame + 4);
    if (load32(frame) != kFrameMagic || load16(frame + 8) != 1) MMSB_REFUSE("not a frame of version 1");
    if (frameLength < kFrameHeaderBytes || frameLength % 8 != 0 || frameLength > length - at) {
      MMSB_REFUSE("a frame of length %llu, but %llu bytes are left", (unsigned long long)frameLength,
                  (unsigned long long)(length - at));
    }
    const int32_t status = decodeFrame(ctx, frame, frameLength, list);
    if (status != MMSB_OK) return status;
    at += frameLength;
  }
  return MMSB_OK;
}

#undef MMSB_REFUSE

}  // namespace MMSB_NS
}  // namespace mmsb
