/* Powers of two of exponents in units of 1/256, in whole numbers: those of exported/token_tables.py. */
#ifndef SXQ_POWERS_H
#define SXQ_POWERS_H

#include <stdint.h>

enum { SXQ_OCTAVE = 256, SXQ_POWER_BITS = 14, SXQ_GATE_BITS = 15, SXQ_GATE_OCTAVES = 16, SXQ_GATES = 2 * SXQ_GATE_OCTAVES * SXQ_OCTAVE };

/* round(2^(14 + i/256)), and of each exponent within a gate's limits, from -4096 on, what the gate opens by: up to 2^15. */
extern uint64_t sxq_powers[SXQ_OCTAVE];
extern uint16_t sxq_gates[SXQ_GATES];

/* Fill both; called once, with the table of operators. */
void sxq_fill_powers(void);

#endif
