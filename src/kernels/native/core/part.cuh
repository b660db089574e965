// The interface of the CPU part of the build to the host part. It is built for x86-64-v3 and for plain
// x86-64.
#pragma once
#include "core/changes.cuh"
#include "core/delta.cuh"
#include "core/journal.cuh"

namespace mmsb {

struct CpuPart {
  const char* isa;
  const Op* const* ops;
  u32 opCount;
  void (*execute)(Exec& exec, const DeltaList& list, Step* const* steps, const u32* numbers, u32 count);
  // The stages of execute, for a backend that does some of the work elsewhere.
  void (*beginCall)(Exec& exec);
  void (*applyDeltas)(Exec& exec, const DeltaList& list);
  void (*runBefore)(Exec& exec, Step& step, bool full);
  void (*runStep)(Exec& exec, Step& step, bool full);
  void (*keepBehind)(Exec& exec);
  void (*fillPage)(PageSlot& slot, u64 bits);
  void (*loadBytes)(PageSlot& slot, u64 offset, const u8* src, u64 bytes);
  void (*updateShare)(PageSlot& slot, u64 state[2]);
  void (*undo)(Exec& exec, const JournalSpan* spans, u64 count, Step* const* steps, u32 stepCount);
  // The same for a call that was cancelled.
  void (*undoCancelled)(Exec& exec, const JournalSpan* spans, u64 count, Step* const* steps, u32 stepCount);
};

extern const CpuPart kCpuBase;
extern const CpuPart kCpuV3;

}  // namespace mmsb
