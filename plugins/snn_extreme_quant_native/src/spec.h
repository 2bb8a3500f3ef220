/* What a neuron computes: NeuronSpec of snn_extreme_quant/neurons/spec.py. */
#ifndef SXQ_SPEC_H
#define SXQ_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  SXQ_LEAK, SXQ_LAPICQUE, SXQ_INTEGRATE, SXQ_RELAX_INPUT, SXQ_RELAX, SXQ_RATE_INPUT, SXQ_RATE, SXQ_SYNAPTIC,
  SXQ_ALPHA, SXQ_CHARGES
};
enum { SXQ_GT, SXQ_GE, SXQ_COMPARISONS };
enum { SXQ_SUBTRACT, SXQ_ZERO, SXQ_CANCEL, SXQ_VALUE, SXQ_NONE, SXQ_RESETS };
enum { SXQ_SAME_STEP, SXQ_DELAYED, SXQ_COMPENSATED, SXQ_TIMINGS };
enum { SXQ_SPIKE, SXQ_TERNARY, SXQ_COUNT, SXQ_CHANGE, SXQ_FIRES };

enum { SXQ_MAX_STATES = 3, SXQ_MAX_PARAMETERS = 8, SXQ_NAME_LENGTH = 96 };
enum { SXQ_BLOCK = 256 }; /* neurons that are advanced together: their variables stay in the first cache */

typedef struct {
  int charge, comparison, reset, timing, fire;
  bool graded, step, vector, states;
  bool integer; /* in fixed point: parameters threshold, gain, bias, those of the charge, v_reset, levels */
} sxq_spec;

/* Places of the parameters that do not depend on the charge; -1 where the neuron has none. */
typedef struct {
  int v_reset, amplitude, levels, count;
} sxq_parameters;

bool sxq_spec_legal(const sxq_spec* spec);
/* Write the operator's name. */
void sxq_spec_name(const sxq_spec* spec, char name[SXQ_NAME_LENGTH]);
size_t sxq_spec_states(const sxq_spec* spec);
sxq_parameters sxq_spec_parameters(const sxq_spec* spec);

/* A block of neurons over all steps. Step t of neuron i is at [t * pitch + i], of its current at [t * x_pitch + i]. */
typedef struct {
  size_t count, steps, pitch, x_pitch;
  const float* x;
  float* spikes;
  int8_t* bytes; /* where spikes go if `spikes` is NULL */
  float* after[SXQ_MAX_STATES];          /* states after each step; NULL if not asked for */
  float (*state)[SXQ_BLOCK];             /* states before the first step; overwritten */
  const float (*parameter)[SXQ_BLOCK];   /* threshold, those of the charge, v_reset, amplitude, levels */
} sxq_neuron_block;

/* The same in fixed point. */
typedef struct {
  size_t count, steps, pitch, x_pitch;
  const int32_t* x;
  uint8_t* spikes; /* int8_t where they have a sign */
  int32_t* after[SXQ_MAX_STATES];
  int32_t (*state)[SXQ_BLOCK];
  const int32_t (*parameter)[SXQ_BLOCK];
  int shift;
} sxq_integer_block;

#endif
