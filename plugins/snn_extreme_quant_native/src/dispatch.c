#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static const sxq_kernels* best(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return &sxq_kernels_avx512;
  }
  if (__builtin_cpu_supports("avx2")) return &sxq_kernels_avx2;
#endif
  return &sxq_kernels_portable;
}

const sxq_kernels* sxq_kernels_here(void) {
  const sxq_kernels* found = best();
  const char* wanted = getenv("SXQ_NATIVE_ISA");
  if (!wanted) return found;
  if (!strcmp(wanted, "portable")) return &sxq_kernels_portable;
#if defined(__x86_64__)
  /* Less than what the processor has may be asked for, not more. */
  if (!strcmp(wanted, "avx2") && found != &sxq_kernels_portable) return &sxq_kernels_avx2;
#endif
  return found;
}
