// What an execution overwrites, kept so that it can be taken back: mmsb_keep and mmsb_undo.
//
// Invariants: a span is whole elements of one page, with the bytes they had before they were written; spans of one worker
// are in the order written, and only spans of one worker may overlap, so laying them back newest first gives the old
// bytes whatever the number of threads. Each worker has a journal of its own: keeping takes no lock.
#pragma once
#include "core/op.cuh"
#include "core/page.cuh"

namespace mmsb {

// A worker's journal in a call: headers, each followed by its bytes, padded to 8.
struct Journal {
  u8* data;
  u64 used, capacity;
  u32 failed;  // there was no memory to keep something
};

struct JournalHeader {
  u32 page;
  u32 bytes;
  u64 offset;  // bytes from the start of the page
};

// A span to put back.
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
