// The code of the thread pool (core/threads.cuh).
#pragma once
#include "core/threads.cuh"

namespace mmsb {
namespace MMSB_NS {

static u32 coreCount() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  const int count = CPU_COUNT(&set);
  return count < 1 ? 1 : u32(count);
}

// A copy of the job, taken when a worker joins it. A worker without tasks may finish the job while others
// still run theirs.
struct PoolJob {
  TaskFn fn;
  void* job;
  u32 tasks;
};

static void poolWork(ThreadPool& pool, const PoolJob& job, u32 worker) {
  while (!cancelRaised(*pool.cancel)) {
    const u32 task = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED);
    if (task >= job.tasks) return;
    job.fn(job.job, task, worker);
  }
}

struct PoolStart {
  ThreadPool* pool;
  u32 worker;
};

static void* poolMain(void* argument) {
  PoolStart* start = static_cast<PoolStart*>(argument);
  ThreadPool& pool = *start->pool;
  const u32 worker = start->worker;
  free(start);
  u64 seen = 0;
  pthread_mutex_lock(&pool.lock);
  for (;;) {
    while (pool.stop == 0 && (pool.generation == seen || pool.generation == 0)) {
      pthread_cond_wait(&pool.wake, &pool.lock);
    }
    if (pool.stop != 0) break;
    seen = pool.generation;
    if (pool.fn == nullptr) continue;  // woke up after the job had ended
    const PoolJob job{pool.fn, pool.job, pool.tasks};
    pool.inside++;
    pthread_mutex_unlock(&pool.lock);
    poolWork(pool, job, worker);
    pthread_mutex_lock(&pool.lock);
    if (--pool.inside == 0) pthread_cond_signal(&pool.idle);
  }
  pthread_mutex_unlock(&pool.lock);
  return nullptr;
}

// If a thread cannot be started, the pool works with fewer.
static void poolStartThreads(ThreadPool& pool) {
  pool.threads = static_cast<pthread_t*>(calloc(pool.workers, sizeof(pthread_t)));
  if (pool.threads == nullptr) pool.workers = 1;
  for (u32 i = 1; i < pool.workers; i++) {
    PoolStart* start = static_cast<PoolStart*>(malloc(sizeof(PoolStart)));
    if (start == nullptr) break;
    start->pool = &pool;
    start->worker = i;
    if (pthread_create(&pool.threads[pool.started], nullptr, poolMain, start) != 0) {
      free(start);
      break;
    }
    pool.started++;
  }
  pool.workers = pool.started + 1;
}

static void poolInit(ThreadPool& pool, u32 workers) {
  memset(&pool, 0, sizeof pool);
  pool.cancel = &pool.ownCancel;
  pthread_mutex_init(&pool.lock, nullptr);
  pthread_cond_init(&pool.wake, nullptr);
  pthread_cond_init(&pool.idle, nullptr);
  pool.workers = workers < 1 ? 1 : workers > kWorkersMax ? kWorkersMax : workers;
}

static void poolFree(ThreadPool& pool) {
  pthread_mutex_lock(&pool.lock);
  pool.stop = 1;
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
  for (u32 i = 0; i < pool.started; i++) pthread_join(pool.threads[i], nullptr);
  free(pool.threads);
  pthread_cond_destroy(&pool.idle);
  pthread_cond_destroy(&pool.wake);
  pthread_mutex_destroy(&pool.lock);
}

}  // namespace MMSB_NS

bool poolRun(ThreadPool& pool, u32 tasks, TaskFn fn, void* job) {
  if (pool.workers > 1 && pool.started == 0) MMSB_NS::poolStartThreads(pool);
  if (pool.workers <= 1 || tasks <= 1) {
    for (u32 task = 0; task < tasks && !cancelRaised(*pool.cancel); task++) fn(job, task, 0);
    return !cancelRaised(*pool.cancel);
  }
  pthread_mutex_lock(&pool.lock);
  pool.fn = fn;
  pool.job = job;
  pool.tasks = tasks;
  __atomic_store_n(&pool.next, 0, __ATOMIC_RELAXED);
  pool.generation++;
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
  MMSB_NS::poolWork(pool, MMSB_NS::PoolJob{fn, job, tasks}, 0);
  pthread_mutex_lock(&pool.lock);
  pool.fn = nullptr;
  while (pool.inside != 0) pthread_cond_wait(&pool.idle, &pool.lock);
  pthread_mutex_unlock(&pool.lock);
  return !cancelRaised(*pool.cancel);
}

}  // namespace mmsb
