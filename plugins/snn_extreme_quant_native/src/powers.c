#include "powers.h"

#include <math.h>

uint64_t sxq_powers[SXQ_OCTAVE];
uint16_t sxq_gates[SXQ_GATES];

void sxq_fill_powers(void) {
  /* None of them is nearer to a half than 1/4000, so that any exp2 gives these. */
  for (int i = 0; i < SXQ_OCTAVE; ++i) sxq_powers[i] = (uint64_t)(exp2(SXQ_POWER_BITS + i / (double)SXQ_OCTAVE) + 0.5);
  for (int j = 0; j < SXQ_GATES; ++j) {
    const uint64_t power = sxq_powers[j % SXQ_OCTAVE] << j / SXQ_OCTAVE; /* below 2^46 */
    const uint64_t total = power + ((uint64_t)1 << (SXQ_POWER_BITS + SXQ_GATE_OCTAVES));
    sxq_gates[j] = (uint16_t)(((power << SXQ_GATE_BITS) + total / 2) / total);
  }
}
