// Tests the thread pool with workers that come late: to a job that has ended, to one that was cancelled, to
// the one after it. A worker rests at random after it wakes up and after it has joined a job.
//
//   pool SEED ROUNDS    ROUNDS pools, each with random jobs
//
// A job lies in memory that is freed when poolRun has returned. So the thread and address sanitizers
// (pool_race and pool_debug of native.mk) notice a worker that uses it later. Prints failures, and exits with
// status 1 if there are any. Spawned by pool.test.ts.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static thread_local bool isWorker = true;  // main says that it is none
static unsigned restUs = 0;                // atomic; the longest rest of a worker
static thread_local unsigned long long restState = 0;

static void rest() {
  const unsigned most = __atomic_load_n(&restUs, __ATOMIC_RELAXED);
  if (!isWorker || most == 0) return;
  if (restState == 0) restState = (unsigned long long)pthread_self();
  restState = restState * 6364136223846793005ull + 1442695040888963407ull;
  const unsigned us = unsigned(restState >> 33) % (2 * most);
  if (us > most) return;
  const timespec time = {0, long(us) * 1000};
  nanosleep(&time, nullptr);
}

// A worker rests before it sees what woke it, and before it takes its first task.
static int lateWait(pthread_cond_t* cond, pthread_mutex_t* lock) {
  const int result = pthread_cond_wait(cond, lock);
  if (!isWorker) return result;
  pthread_mutex_unlock(lock);
  rest();
  pthread_mutex_lock(lock);
  return result;
}
static int lateUnlock(pthread_mutex_t* lock) {
  const int result = pthread_mutex_unlock(lock);
  rest();
  return result;
}

#define MMSB_NS host
#define pthread_cond_wait lateWait
#define pthread_mutex_unlock lateUnlock
#include "abi/threads_host.cuh"
#undef pthread_cond_wait
#undef pthread_mutex_unlock

using namespace mmsb;

static u32 failures = 0;
#define CHECK(CONDITION)                                                                 \
  do {                                                                                   \
    if (!(CONDITION) && ++failures <= 20) printf("line %d: %s\n", __LINE__, #CONDITION); \
  } while (0)

static u64 drawState = 1;
static u32 below(u32 n) {
  drawState = drawState * 6364136223846793005ull + 1442695040888963407ull;
  return n == 0 ? 0 : u32(drawState >> 33) % n;
}

static const u32 kMostTasks = 40;
static u32 running;            // atomic; number of the job whose poolRun has not returned, or 0
static u32 strayTasks;         // atomic; tasks that ran outside their job
static u32 sharedWorker;       // atomic; tasks that met another one of the same worker
static u32 busy[kWorkersMax];  // atomic; whether this worker is in a task

// What a task writes is read by main without a lock, as the results of steps are.
struct Job {
  u32 number, tasks, workers;
  u32 ran[kMostTasks];
  u64 made[kMostTasks];
  u32* cancel;
  u32 cancelAt;  // task that cancels, or none
  u32 pauseUs;
};

static void task(void* argument, u32 number, u32 worker) {
  Job& job = *static_cast<Job*>(argument);
  if (__atomic_load_n(&running, __ATOMIC_RELAXED) != job.number || number >= job.tasks || worker >= job.workers) {
    __atomic_fetch_add(&strayTasks, 1, __ATOMIC_RELAXED);
    return;
  }
  if (__atomic_exchange_n(&busy[worker], 1, __ATOMIC_RELAXED) != 0)
    __atomic_fetch_add(&sharedWorker, 1, __ATOMIC_RELAXED);
  if (worker == 0 && number % 4 == 0) usleep(job.pauseUs);  // so that others get tasks
  job.ran[number]++;
  job.made[number] = u64(job.number) << 32 | number;
  if (number == job.cancelAt) __atomic_store_n(job.cancel, 1, __ATOMIC_RELAXED);
  __atomic_store_n(&busy[worker], 0, __ATOMIC_RELAXED);
}

static void runJob(ThreadPool& pool, u32 number, u32 workers) {
  Job* job = static_cast<Job*>(calloc(1, sizeof(Job)));
  job->number = number;
  job->tasks = below(4) == 0 ? below(3) : 2 + below(kMostTasks - 2);
  job->workers = workers;
  job->cancel = &pool.ownCancel;
  job->cancelAt = below(4) == 0 ? below(job->tasks) : kMostTasks;
  job->pauseUs = below(2) * below(200);
  const bool cancels = job->cancelAt < job->tasks;
  __atomic_store_n(&running, number, __ATOMIC_RELAXED);
  const bool done = poolRun(pool, job->tasks, task, job);
  __atomic_store_n(&running, 0, __ATOMIC_RELAXED);
  CHECK(done == !cancels);
  for (u32 i = 0; i < job->tasks; i++) {
    CHECK(cancels ? job->ran[i] <= 1 : job->ran[i] == 1);
    if (job->ran[i] != 0) CHECK(job->made[i] == (u64(number) << 32 | i));
  }
  if (cancels) CHECK(job->ran[job->cancelAt] == 1);
  memset(static_cast<void*>(job), 0xee, sizeof(Job));
  free(job);
  __atomic_store_n(&pool.ownCancel, 0, __ATOMIC_RELAXED);
}

int main(int argc, char** argv) {
  isWorker = false;
  drawState = argc > 1 ? strtoull(argv[1], nullptr, 10) * 7919 + 1 : 1;
  const u32 rounds = argc > 2 ? u32(atoi(argv[2])) : 20;
  u32 number = 0;
  for (u32 round = 0; round < rounds; round++) {
    ThreadPool pool;
    const u32 workers = 1 + below(6);
    host::poolInit(pool, workers);
    for (u32 i = 0; i < 60; i++) {
      __atomic_store_n(&restUs, below(3) == 0 ? 0 : below(200), __ATOMIC_RELAXED);
      runJob(pool, ++number, workers);
      if (below(4) == 0) usleep(below(300));
    }
    __atomic_store_n(&restUs, below(2) * 100, __ATOMIC_RELAXED);
    host::poolFree(pool);
  }
  CHECK(strayTasks == 0);
  CHECK(sharedWorker == 0);
  printf("jobs %u\nfailures %u\n", number, failures);
  return failures == 0 ? 0 : 1;
}
