// A small thread pool: one job at a time, cut into numbered tasks.
//
// Invariants: how tasks are cut never depends on the number of threads, and a task's result never on which thread runs
// it. The caller is worker 0 and works too. Threads start with the first job that needs them.
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
  u32 workers;  // the caller included
  u32 started;  // threads running
  u32 stop;
  u64 generation;  // number of the job that threads may join
  u32 inside;      // threads working on it
  TaskFn fn;
  void* job;
  u32 tasks;
  u32 next;  // atomic
};

static const u32 kWorkersMax = 64;

// Runs fn(job, 0 .. tasks - 1, worker), each once, and returns when all have ended. Defined by the host part.
void poolRun(ThreadPool& pool, u32 tasks, TaskFn fn, void* job);

}  // namespace mmsb
