/* The equations of neurons/dynamics.py, for a block of neurons, one operation after the other.
 *
 * Every line is one float operation over the block, in the order of the functions' bodies; the compiler makes vector
 * instructions of it and may not contract a product and a sum into one (-ffp-contract=off).
 */
#include <math.h>

typedef float lane[SXQ_BLOCK];

#define EACH for (size_t i = 0; i < n; ++i)

/* From the potential u and the input x to the potential before firing c; currents are states[1] and states[2]. */
static void charge(
    int kind, size_t n, const float (*p)[SXQ_BLOCK], const float* x, const float* u, float (*state)[SXQ_BLOCK],
    float* c) {
  const float *a = p[1], *b = p[2];
  switch (kind) {
    case SXQ_LEAK: EACH c[i] = a[i] * u[i] + x[i]; break;
    case SXQ_LAPICQUE: EACH c[i] = ((x[i] * a[i]) * b[i]) * p[3][i] + p[4][i] * u[i]; break;
    case SXQ_INTEGRATE: EACH c[i] = u[i] + x[i]; break;
    case SXQ_RELAX_INPUT: EACH c[i] = u[i] + (x[i] - (u[i] - a[i])) / b[i]; break;
    case SXQ_RELAX: EACH c[i] = (u[i] - (u[i] - a[i]) / b[i]) + x[i]; break;
    case SXQ_RATE_INPUT: EACH c[i] = u[i] + (x[i] - (u[i] - a[i])) * b[i]; break;
    case SXQ_RATE: EACH c[i] = (u[i] - (u[i] - a[i]) * b[i]) + x[i]; break;
    case SXQ_SYNAPTIC:
      EACH state[1][i] = b[i] * state[1][i] + x[i];
      EACH c[i] = a[i] * u[i] + state[1][i];
      break;
    default: /* SXQ_ALPHA */
      EACH state[1][i] = a[i] * state[1][i] + x[i];
      EACH state[2][i] = b[i] * state[2][i] - x[i];
      EACH c[i] = p[3][i] * (state[1][i] + state[2][i]);
  }
}

static void reached(int comparison, size_t n, const float* v, const float* threshold, float* out) {
  if (comparison == SXQ_GT) {
    EACH out[i] = v[i] > threshold[i] ? 1.0f : 0.0f;
  } else {
    EACH out[i] = v[i] >= threshold[i] ? 1.0f : 0.0f;
  }
}

static void same_step(
    const sxq_spec* spec, sxq_parameters place, size_t n, const float (*p)[SXQ_BLOCK], const float* x,
    float (*state)[SXQ_BLOCK], float* s) {
  lane c, fired, other;
  const float* threshold = p[0];
  float* v = state[0];
  charge(spec->charge, n, p, x, v, state, c);
  switch (spec->fire) {
    case SXQ_TERNARY:
      EACH other[i] = -c[i];
      reached(spec->comparison, n, c, threshold, s);
      reached(spec->comparison, n, other, threshold, fired);
      EACH {
        const float up = s[i], down = fired[i];
        s[i] = up - down;
        fired[i] = up + down;
      }
      break;
    case SXQ_COUNT: {
      const float* levels = p[place.levels];
      EACH {
        float ratio = c[i] / threshold[i];
        ratio = ratio < 0.0f ? 0.0f : ratio;
        s[i] = rintf(ratio > levels[i] ? levels[i] : ratio);
      }
      EACH fired[i] = s[i];
      break;
    }
    case SXQ_CHANGE:
      EACH other[i] = fabsf(c[i] - v[i]);
      reached(spec->comparison, n, other, threshold, s);
      EACH fired[i] = s[i];
      break;
    default:
      reached(spec->comparison, n, c, threshold, s);
      EACH fired[i] = s[i];
  }
  switch (spec->reset) {
    case SXQ_SUBTRACT: EACH v[i] = c[i] - s[i] * threshold[i]; break;
    case SXQ_VALUE: {
      const float* v_reset = p[place.v_reset];
      EACH v[i] = fired[i] * v_reset[i] + (1.0f - fired[i]) * c[i];
      break;
    }
    case SXQ_ZERO: EACH v[i] = (1.0f - fired[i]) * c[i]; break;
    default: EACH v[i] = c[i];
  }
}

static void delayed(
    const sxq_spec* spec, size_t n, const float (*p)[SXQ_BLOCK], const float* x, float (*state)[SXQ_BLOCK], float* s) {
  lane r, h, u;
  const float* threshold = p[0];
  float* v = state[0];
  reached(spec->comparison, n, v, threshold, r);
  if (spec->reset == SXQ_ZERO) {
    EACH u[i] = (1.0f - r[i]) * v[i];
    charge(spec->charge, n, p, x, u, state, h);
  } else if (spec->charge == SXQ_ALPHA) {
    EACH u[i] = state[2][i]; /* the inhibiting current of the last step, which the reset needs */
    charge(spec->charge, n, p, x, v, state, h);
    if (spec->reset == SXQ_SUBTRACT) {
      EACH h[i] = h[i] - -u[i] * r[i];
      EACH state[1][i] = state[1][i] - threshold[i] * r[i];
      EACH state[2][i] = state[2][i] - state[2][i] * r[i];
    } else if (spec->reset == SXQ_CANCEL) {
      EACH h[i] = h[i] - h[i] * r[i];
      EACH state[1][i] = state[1][i] - state[1][i] * r[i];
      EACH state[2][i] = state[2][i] - state[2][i] * r[i];
    }
  } else {
    charge(spec->charge, n, p, x, v, state, h);
    if (spec->reset == SXQ_SUBTRACT) {
      EACH h[i] = h[i] - r[i] * threshold[i];
    } else if (spec->reset == SXQ_CANCEL) {
      EACH h[i] = h[i] - r[i] * h[i];
    }
  }
  reached(spec->comparison, n, h, threshold, s);
  if (spec->timing == SXQ_COMPENSATED && spec->reset == SXQ_SUBTRACT) {
    EACH v[i] = h[i] - (s[i] - r[i]) * threshold[i];
  } else if (spec->timing == SXQ_COMPENSATED && spec->reset != SXQ_NONE) {
    EACH v[i] = h[i] - (s[i] - r[i]) * h[i];
  } else {
    EACH v[i] = h[i];
  }
}

/* The usual neurons in one pass: the same operations, with nothing stored in between. */
static inline __attribute__((always_inline)) void usual_step(
    bool leaks, bool at_least, bool is_signed, size_t n, const float (*p)[SXQ_BLOCK], const float* restrict x,
    float* restrict v, float* restrict s) {
  const float *restrict threshold = p[0], *restrict decay = p[1];
  EACH {
    const float c = leaks ? decay[i] * v[i] + x[i] : v[i] + x[i];
    const float up = (at_least ? c >= threshold[i] : c > threshold[i]) ? 1.0f : 0.0f;
    const float down = is_signed && (at_least ? -c >= threshold[i] : -c > threshold[i]) ? 1.0f : 0.0f;
    s[i] = up - down;
    v[i] = c - s[i] * threshold[i];
  }
}

static bool is_usual(const sxq_spec* spec) {
  return (spec->charge == SXQ_LEAK || spec->charge == SXQ_INTEGRATE) && spec->timing == SXQ_SAME_STEP &&
         spec->reset == SXQ_SUBTRACT && (spec->fire == SXQ_SPIKE || spec->fire == SXQ_TERNARY);
}

static void usual(
    const sxq_spec* spec, size_t n, const float (*p)[SXQ_BLOCK], const float* x, float* v, float* s) {
#define WAY(leaks, at_least, is_signed) usual_step(leaks, at_least, is_signed, n, p, x, v, s); break
  switch ((spec->charge == SXQ_LEAK) * 4 + (spec->comparison == SXQ_GE) * 2 + (spec->fire == SXQ_TERNARY)) {
    case 0: WAY(false, false, false);
    case 1: WAY(false, false, true);
    case 2: WAY(false, true, false);
    case 3: WAY(false, true, true);
    case 4: WAY(true, false, false);
    case 5: WAY(true, false, true);
    case 6: WAY(true, true, false);
    default: WAY(true, true, true);
  }
#undef WAY
}

static void neurons(const sxq_spec* spec, const sxq_neuron_block* block) {
  const size_t n = block->count;
  const sxq_parameters place = sxq_spec_parameters(spec);
  const size_t states = sxq_spec_states(spec);
  for (size_t t = 0; t < block->steps; ++t) {
    const float* x = block->x + t * block->x_pitch;
    lane own;
    float* spikes = block->spikes ? block->spikes + t * block->pitch : NULL;
    float* s = spikes ? spikes : own;
    /* The next block of this step: no prefetcher of a processor sees a pattern in blocks that lie a step apart. */
    for (size_t i = n; i < 2 * n; i += 64 / sizeof *x) {
      __builtin_prefetch(x + i, 0, 2);
      __builtin_prefetch(s + i, 1, 2);
    }
    if (is_usual(spec)) {
      usual(spec, n, block->parameter, x, block->state[0], s);
    } else if (spec->timing == SXQ_SAME_STEP) {
      same_step(spec, place, n, block->parameter, x, block->state, s);
    } else {
      delayed(spec, n, block->parameter, x, block->state, s);
    }
    if (spec->graded) {
      const float* amplitude = block->parameter[place.amplitude];
      EACH s[i] = s[i] * amplitude[i];
    }
    if (!spikes) {
      int8_t* bytes = block->bytes + t * block->pitch;
      EACH bytes[i] = (int8_t)(int)s[i];
    }
    for (size_t k = 0; k < states; ++k) {
      if (block->after[k]) memcpy(block->after[k] + t * block->pitch, block->state[k], n * sizeof(float));
    }
  }
}

#undef EACH
