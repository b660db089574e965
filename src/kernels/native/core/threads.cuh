// A small thread pool that runs one job at a time, cut into numbered tasks.
//
// Invariants: the cut into tasks never depends on the number of threads, and the result of a task never
// depends on the thread that runs it. The caller works too, as worker 0. Threads start with the first job
// that needs them. Once `*cancel` is set, tasks that have not started are skipped.
#pragma once
#include <pthread.h>
#include <sched.h>

#include "core/op.cuh"

namespace mmsb {

typedef void (*TaskFn)(void* job, u32 task, u32 worker);

struct ThreadPool {
  pthread_mutex_t lock;
  pthread_cond_t wake, idle;
  pthread_t* threads;
  u32 workers;  // including the caller
  u32 started;  // threads running
  u32 stop;
  u64 generation;  // number of the current job
  u32 inside;      // threads working on it
  TaskFn fn;
  void* job;
  u32 tasks;
  u32 next;           // atomic
  u32 ownCancel;      // atomic; set by any thread to end the running call early
  const u32* cancel;  // that, or a word of the program's with the same meaning
};

static const u32 kWorkersMax = 64;

static inline bool cancelRaised(const u32& cancel) { return __atomic_load_n(&cancel, __ATOMIC_RELAXED) != 0; }

// Runs fn(job, task, worker) once for each task in 0 .. tasks - 1 and returns when all have finished. Returns
// false when the call is cancelled; then some tasks have not run, and what they make must not be read.
// Defined by the host part.
bool poolRun(ThreadPool& pool, u32 tasks, TaskFn fn, void* job);

}  // namespace mmsb
