// The calls that a context keeps for undo, newest first. Host part only.
//
// Invariants: a kept call is one block of memory that holds its spans with their headers, worker by worker.
// KeptCalls::bytes is the sum over the list. The journals of the workers are empty between calls.
#pragma once
#include "core/changes.cuh"
#include "core/journal.cuh"

namespace mmsb {

struct KeptCall {
  KeptCall* older;
  KeptCall* newer;
  u64 spans, bytes;
  u32 cancelled;
  u8* data() { return reinterpret_cast<u8*>(this + 1); }
  const u8* data() const { return reinterpret_cast<const u8*>(this + 1); }
};

struct KeptCalls {
  Journal* journals;  // one for each worker while keeping is on, else null
  KeptCall* newest;
  KeptCall* oldest;
  u64 bytes;
  u32 count;
};

namespace MMSB_NS {

static bool keptOpen(KeptCalls& kept, u32 workers) {
  if (kept.journals == nullptr) kept.journals = static_cast<Journal*>(calloc(workers, sizeof(Journal)));
  return kept.journals != nullptr;
}

// Called before a call: connects the workers to their journals, or to none.
static void keptBegin(KeptCalls& kept, Exec& exec) {
  for (u32 w = 0; w < exec.workerCount; w++) {
    exec.workers[w].arena.journal = kept.journals == nullptr ? nullptr : &kept.journals[w];
    if (kept.journals == nullptr) continue;
    kept.journals[w].used = 0;
    kept.journals[w].failed = 0;
  }
}

// Called after a call: turns the content of the journals into the newest kept call. Returns false without
// memory.
static bool keptEnd(KeptCalls& kept, Exec& exec, bool cancelled) {
  if (kept.journals == nullptr) return true;
  u64 bytes = 0;
  for (u32 w = 0; w < exec.workerCount; w++) {
    if (kept.journals[w].failed != 0) return false;
    bytes += kept.journals[w].used;
  }
  KeptCall* call = static_cast<KeptCall*>(malloc(sizeof(KeptCall) + bytes));
  if (call == nullptr) return false;
  call->bytes = bytes;
  call->spans = 0;
  call->cancelled = cancelled ? 1 : 0;
  u8* to = call->data();
  for (u32 w = 0; w < exec.workerCount; w++) {
    const Journal& journal = kept.journals[w];
    if (journal.used != 0) memcpy(to, journal.data, journal.used);
    for (u64 at = 0; at < journal.used; call->spans++) {
      JournalHeader header;
      memcpy(&header, to + at, sizeof header);
      at += sizeof header + ((u64(header.bytes) + 7) & ~7ull);
    }
    to += journal.used;
  }
  call->older = kept.newest;
  call->newer = nullptr;
  if (kept.newest != nullptr) kept.newest->newer = call;
  else kept.oldest = call;
  kept.newest = call;
  kept.bytes += bytes;
  kept.count++;
  return true;
}

// Drops the newest or the oldest kept call.
static void keptDrop(KeptCalls& kept, KeptCall* call) {
  if (call->older != nullptr) call->older->newer = call->newer;
  else kept.oldest = call->newer;
  if (call->newer != nullptr) call->newer->older = call->older;
  else kept.newest = call->older;
  kept.bytes -= call->bytes;
  kept.count--;
  free(call);
}

static void keptClose(KeptCalls& kept, u32 workers) {
  while (kept.newest != nullptr) keptDrop(kept, kept.newest);
  for (u32 w = 0; kept.journals != nullptr && w < workers; w++) free(kept.journals[w].data);
  free(kept.journals);
  kept.journals = nullptr;
}

}  // namespace MMSB_NS
}  // namespace mmsb
