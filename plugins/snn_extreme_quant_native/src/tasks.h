/* A task's loops, compiled for what the processor has; to be included once in a file, behind its
 * `static inline void run(job*, size_t index)`, which is always inlined. */
#ifndef SXQ_TASKS_H
#define SXQ_TASKS_H

static void task_portable(void* data, size_t index) { run(data, index); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void task_avx2(void* data, size_t index) { run(data, index); }
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void task_avx512(
    void* data, size_t index) {
  run(data, index);
}
#endif

typedef void (*task_fn)(void* data, size_t index);

static task_fn task_for(const sxq_kernels* kernels) {
#if defined(__x86_64__)
  if (kernels == &sxq_kernels_avx512) return task_avx512;
  if (kernels == &sxq_kernels_avx2) return task_avx2;
#endif
  (void)kernels;
  return task_portable;
}

#endif
