// Keeps the bytes that a call overwrites, so that mmsb_undo can restore them (see mmsb_keep).
//
// Invariants: a span holds whole elements of one page with their bytes from before the write. The spans of a
// worker are in the order of the writes, and only spans of the same worker may overlap. So restoring them
// newest first gives the old bytes for any number of threads. Each worker has its own journal, so keeping
// takes no lock.
#pragma once
#include "core/op.cuh"
#include "core/page.cuh"

namespace mmsb {

// The journal of one worker in one call: headers, each followed by the old bytes, padded to 8.
struct Journal {
  u8* data;
  u64 used, capacity;
  u32 failed;  // a span was lost for lack of memory
};

struct JournalHeader {
  u32 page;
  u32 bytes;
  u64 offset;  // bytes from the start of the page
};

// A span to restore.
struct JournalSpan {
  PageSlot* slot;
  const u8* old;
  u64 offset;
  u32 bytes;
};

namespace MMSB_NS {

static void journalKeep(Journal& journal, u32 page, u64 offset, const u8* old, u32 bytes) {
  const u64 need = sizeof(JournalHeader) + ((u64(bytes) + 7) & ~7ull);
  if (journal.used + need > journal.capacity) {
    const u64 capacity = 2 * journal.capacity + need + 4096;
    void* larger = realloc(journal.data, capacity);
    if (larger == nullptr) {
      journal.failed = 1;
      return;
    }
    journal.data = static_cast<u8*>(larger);
    journal.capacity = capacity;
  }
  const JournalHeader header = {page, bytes, offset};
  memcpy(journal.data + journal.used, &header, sizeof header);
  memcpy(journal.data + journal.used + sizeof header, old, bytes);
  journal.used += need;
}

}  // namespace MMSB_NS
}  // namespace mmsb
