// A page as the executor sees it: what ops see, plus digest state and the changes of the running call.
//
// Invariants: a PageSlot begins with its Page and has the same layout in every part. `hashes` has two words
// per chunk of 4 KiB (docs/internals/FORMAT.md, "Digest"). `digest` is the sum of the chunks' shares.
// `share` is the page's part of the state digest, brought up to date at the end of a call. A field that
// belongs to one call is valid if the mark beside it equals the number of the running call. `settled` is
// the digest after the last call that changed the page, `before` the one before that call; another thread
// may read them while a call runs.
#pragma once
#include "core/op.cuh"

namespace mmsb {

// Bytes that deltas overwrote in this call, for pages where several deltas may write the same element.
struct Undo {
  RangeSet spans;  // in the order of the writes, not joined
  u8* bytes;       // old bytes of the spans, one after another
  u64 used, capacity;
};

struct PageSlot {
  Page page;
  u64* hashes;
  u64 ownHash[2];  // storage of `hashes` when the page has one chunk
  u64 digest[2];
  u64 share[2];
  u64 settled[2], before[2];
  u64 settledCall;  // number of the call that set `settled`
  RangeSet dirty;   // elements changed in this call; valid if mark is the call's
  Undo* undo;       // valid if mark is the call's
  u8* snapshot;     // the page's bytes before the call, or null; valid if mark is the call's
  u64 mark;
  u64 allocated;   // bytes allocated at page.data
  u64 loads;       // counts writes by mmsb_page_load; when it changes, state that ops derived from the page is stale
  u32 stepRefs;    // live steps that use the page
  u32 deltaCount;  // deltas of this call, valid if deltaMark is the call's
  u64 deltaMark;
  void* device;    // the CUDA backend's own
  Step* pasts;     // steps that keep the past of this page, linked by past->next
  Step* pastStep;  // the step whose output, a past, this page is; else null
  u64 fill;        // bits of the element that the page is still to be filled with, or 0
  PageSlot* nextUnfilled;
};

static inline PageSlot* slotOf(Page* page) { return reinterpret_cast<PageSlot*>(page); }
static inline const PageSlot* slotOf(const Page* page) { return reinterpret_cast<const PageSlot*>(page); }

// Bytes of a page's buffer: its elements, padded to a multiple of 64.
static inline u64 paddedBytes(u64 bytes) { return bytes == 0 ? 64 : (bytes + 63) & ~63ull; }

}  // namespace mmsb
