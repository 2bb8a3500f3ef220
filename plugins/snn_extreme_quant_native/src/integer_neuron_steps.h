/* The equations of fixed-point neurons (docs/operators.md), for a block of neurons: 32 bit that wrap around, but for the
 * product of a leak. */

enum { STATE_LIMIT = 1 << 30 };

typedef int32_t integer_lane[SXQ_BLOCK];

#define EACH for (size_t i = 0; i < n; ++i)

ALWAYS_INLINE int32_t added(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
ALWAYS_INLINE int32_t less(int32_t a, int32_t b) { return (int32_t)((uint32_t)a - (uint32_t)b); }
ALWAYS_INLINE int32_t times(int32_t a, int32_t b) { return (int32_t)((uint32_t)a * (uint32_t)b); }
ALWAYS_INLINE int32_t leaked(int32_t v, int32_t decay, int shift) {
  return (int32_t)(((int64_t)v * decay + ((int64_t)1 << (shift - 1))) >> shift);
}
ALWAYS_INLINE bool reaches(int comparison, int32_t v, int32_t threshold) {
  return comparison == SXQ_GT ? v > threshold : v >= threshold;
}

/* From the potential v and the current to the potential before firing c; currents are states[1] and states[2]. */
static void integer_charge(
    int kind, int shift, size_t n, const int32_t (*p)[SXQ_BLOCK], const int32_t* current, const int32_t* v,
    int32_t (*state)[SXQ_BLOCK], int32_t* c) {
  const int32_t *a = p[3], *b = p[4];
  switch (kind) {
    case SXQ_LEAK: EACH c[i] = added(leaked(v[i], a[i], shift), current[i]); break;
    case SXQ_INTEGRATE: EACH c[i] = added(v[i], current[i]); break;
    case SXQ_SYNAPTIC:
      EACH state[1][i] = added(leaked(state[1][i], b[i], shift), current[i]);
      EACH c[i] = added(leaked(v[i], a[i], shift), state[1][i]);
      break;
    default: /* SXQ_ALPHA */
      EACH state[1][i] = added(leaked(state[1][i], a[i], shift), current[i]);
      EACH state[2][i] = less(leaked(state[2][i], b[i], shift), current[i]);
      EACH c[i] = leaked(added(state[1][i], state[2][i]), p[5][i], shift);
  }
}

static void integer_same_step(
    const sxq_spec* spec, int shift, sxq_parameters place, size_t n, const int32_t (*p)[SXQ_BLOCK],
    const int32_t* current, int32_t (*state)[SXQ_BLOCK], int32_t* s) {
  integer_lane c;
  const int32_t* threshold = p[0];
  const int comparison = spec->comparison;
  int32_t* v = state[0];
  integer_charge(spec->charge, shift, n, p, current, v, state, c);
  switch (spec->fire) {
    case SXQ_TERNARY:
      EACH s[i] = reaches(comparison, c[i], threshold[i]) - reaches(comparison, less(0, c[i]), threshold[i]);
      break;
    case SXQ_COUNT: {
      const int32_t* levels = p[place.levels];
      EACH {
        const int32_t unit = threshold[i] > 1 ? threshold[i] : 1, h = c[i] > 0 ? c[i] : 0;
        const int32_t ratio = added(h, unit / 2) / unit;
        s[i] = ratio < levels[i] ? ratio : levels[i];
      }
      break;
    }
    case SXQ_CHANGE:
      EACH {
        const int32_t change = less(c[i], v[i]);
        s[i] = reaches(comparison, change < 0 ? less(0, change) : change, threshold[i]);
      }
      break;
    default: EACH s[i] = reaches(comparison, c[i], threshold[i]);
  }
  switch (spec->reset) {
    case SXQ_SUBTRACT: EACH v[i] = less(c[i], times(s[i], threshold[i])); break;
    case SXQ_VALUE: {
      const int32_t* v_reset = p[place.v_reset];
      EACH v[i] = s[i] ? v_reset[i] : c[i];
      break;
    }
    case SXQ_ZERO: EACH v[i] = s[i] ? 0 : c[i]; break;
    default: EACH v[i] = c[i];
  }
}

static void integer_delayed(
    const sxq_spec* spec, int shift, size_t n, const int32_t (*p)[SXQ_BLOCK], const int32_t* current,
    int32_t (*state)[SXQ_BLOCK], int32_t* s) {
  integer_lane r, h, u;
  const int32_t* threshold = p[0];
  int32_t* v = state[0];
  EACH r[i] = reaches(spec->comparison, v[i], threshold[i]);
  if (spec->charge == SXQ_ALPHA) {
    EACH u[i] = state[2][i]; /* the inhibiting current of the last step, which the reset needs */
    integer_charge(spec->charge, shift, n, p, current, v, state, h);
    if (spec->reset == SXQ_SUBTRACT) {
      EACH h[i] = added(h[i], r[i] ? u[i] : 0);
      EACH state[1][i] = less(state[1][i], r[i] ? threshold[i] : 0);
    } else if (spec->reset == SXQ_CANCEL) {
      EACH h[i] = r[i] ? 0 : h[i];
      EACH state[1][i] = r[i] ? 0 : state[1][i];
    }
    if (spec->reset != SXQ_NONE) EACH state[2][i] = r[i] ? 0 : state[2][i];
  } else {
    EACH u[i] = spec->reset == SXQ_ZERO && r[i] ? 0 : v[i];
    integer_charge(spec->charge, shift, n, p, current, u, state, h);
    if (spec->reset == SXQ_SUBTRACT) {
      EACH h[i] = less(h[i], r[i] ? threshold[i] : 0);
    } else if (spec->reset == SXQ_CANCEL) {
      EACH h[i] = r[i] ? 0 : h[i];
    }
  }
  EACH s[i] = reaches(spec->comparison, h[i], threshold[i]);
  if (spec->timing == SXQ_COMPENSATED && spec->reset != SXQ_NONE) {
    EACH {
      const int32_t by = spec->reset == SXQ_SUBTRACT ? threshold[i] : h[i];
      v[i] = less(added(h[i], r[i] ? by : 0), s[i] ? by : 0);
    }
  } else {
    EACH v[i] = h[i];
  }
}

static void integer_neurons(const sxq_spec* spec, const sxq_integer_block* block) {
  const size_t n = block->count, states = sxq_spec_states(spec);
  const sxq_parameters place = sxq_spec_parameters(spec);
  const int32_t *gain = block->parameter[1], *bias = block->parameter[2];
  for (size_t t = 0; t < block->steps; ++t) {
    const int32_t* x = block->x + t * block->x_pitch;
    integer_lane current, s;
    for (size_t i = n; i < 2 * n; i += 64 / sizeof *x) __builtin_prefetch(x + i, 0, 2); /* as in neuron_steps.h */
    for (size_t i = n; i < 2 * n; i += 64) __builtin_prefetch(block->spikes + t * block->pitch + i, 1, 2);
    EACH current[i] = added(times(x[i], gain[i]), bias[i]);
    if (spec->timing == SXQ_SAME_STEP) {
      integer_same_step(spec, block->shift, place, n, block->parameter, current, block->state, s);
    } else {
      integer_delayed(spec, block->shift, n, block->parameter, current, block->state, s);
    }
    uint8_t* spikes = block->spikes + t * block->pitch;
    EACH spikes[i] = (uint8_t)s[i];
    for (size_t k = 0; k < states; ++k) {
      int32_t* state = block->state[k];
      EACH state[i] = state[i] < -STATE_LIMIT ? -STATE_LIMIT : state[i] > STATE_LIMIT ? STATE_LIMIT : state[i];
      if (block->after[k]) memcpy(block->after[k] + t * block->pitch, state, n * sizeof *state);
    }
  }
}

#undef EACH
