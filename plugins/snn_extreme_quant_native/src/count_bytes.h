/* Numbers of spikes in bytes, as the bodies of Synchronous... give them. */
#ifndef SXQ_COUNT_BYTES_H
#define SXQ_COUNT_BYTES_H

#include <math.h>
#include <stdint.h>

/* NaN, which no body defines, becomes 0. */
static inline __attribute__((always_inline)) uint8_t sxq_byte_of(float n, float top) {
  n = n > 0.0f ? n : 0.0f;
  return (uint8_t)(int32_t)(n < top ? n : top);
}

static inline __attribute__((always_inline)) float sxq_whole_count(float x, float threshold, float steps) {
  return floorf(x / threshold * steps + 0.5f);
}

#endif
