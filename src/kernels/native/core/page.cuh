// What the executor keeps of a page beside what ops see: digest state, and what happened to it in the running call.
//
// Invariants: a PageSlot begins with its Page; one layout in every part. `hashes` has two words per chunk of 4 KiB (see
// docs/internals/FORMAT.md, "Digest"); `digest` is the sum of the chunks' shares; `share` is what the page adds to the state's digest
// (brought up to date at the end of a call). Marks equal to the running call's number say that a field belongs to it.
#pragma once
#include "core/op.cuh"

namespace mmsb {

// Old bytes of what deltas overwrote in this call, for pages that several deltas may write at the same place.
struct Undo {
  RangeSet spans;  // in the order written, not joined
  u8* bytes;       // the spans' old bytes, one after another
  u64 used, capacity;
};

struct PageSlot {
  Page page;
  u64* hashes;
  u64 ownHash[2];  // hashes points here when the page has one chunk
  u64 digest[2];
  u64 share[2];
  RangeSet dirty;  // elements changed in this call; valid when mark is the call's
  Undo* undo;      // valid when mark is the call's
  u8* snapshot;    // the page's bytes before the call, or null; valid when mark is the call's
  u64 mark;
  u64 allocated;   // bytes behind page.data
  u64 loads;       // raw writes by mmsb_page_load; what is kept of the page's content by an op is stale when it moved
  u32 stepRefs;    // live steps that use the page
  u32 deltaCount;  // deltas of this call, valid when deltaMark is the call's
  u64 deltaMark;
  void* device;    // the CUDA backend's own
  Step* pasts;     // steps that keep this page's past, linked by past->next
  Step* pastStep;  // the step that this page is the past of, else null
};

static inline PageSlot* slotOf(Page* page) { return reinterpret_cast<PageSlot*>(page); }
static inline const PageSlot* slotOf(const Page* page) { return reinterpret_cast<const PageSlot*>(page); }

// Bytes of a page's buffer: its elements, padded to 64.
static inline u64 paddedBytes(u64 bytes) { return bytes == 0 ? 64 : (bytes + 63) & ~63ull; }

}  // namespace mmsb
