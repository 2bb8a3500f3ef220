/* The table of operators. */
#include "operators.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "powers.h"

enum { MOST_OPERATORS = 8192 };

static sxq_byte_table tables[SXQ_LAYOUTS];
static sxq_operator* operators;
static size_t operator_count;

static const sxq_operator* of(const OrtCustomOp* op) { return (const sxq_operator*)op; }
static const char* get_name(const OrtCustomOp* op) { return of(op)->name; }
static const char* get_provider(const OrtCustomOp* op) { (void)op; return NULL; /* any: the CPU */ }
static size_t get_input_count(const OrtCustomOp* op) { return of(op)->inputs; }
static size_t get_output_count(const OrtCustomOp* op) { return of(op)->outputs; }
static bool sums_integers(sxq_kind kind) {
  return kind == SXQ_MATMUL_INTEGER || kind == SXQ_MATMUL_INTEGER_SIGNED || kind == SXQ_CONV_INTEGER ||
         kind == SXQ_CONV_INTEGER_SIGNED;
}
static int get_output_type(const OrtCustomOp* op, size_t index) {
  const sxq_kind kind = of(op)->kind;
  const sxq_spec* spec = &of(op)->spec;
  if (of(op)->types) return of(op)->types[of(op)->inputs + index];
  if (kind == SXQ_SYNCHRONOUS_FOLDED || kind == SXQ_SYNCHRONOUS_COUNTS || kind == SXQ_COUNTS || kind == SXQ_STEP_COUNTS) {
    return ORT_TYPE_UINT8;
  }
  if (kind == SXQ_SHIFT_NORM) return ORT_TYPE_INT32;
  if ((kind == SXQ_FUSED || kind == SXQ_CURRENTS) && index == 0) return of(op)->spikes;
  if (kind == SXQ_NEURON && spec->integer && index == 0) {
    return spec->fire == SXQ_TERNARY ? ORT_TYPE_INT8 : ORT_TYPE_UINT8;
  }
  return spec->integer || sums_integers(kind) || kind == SXQ_EMBEDDING_INTEGER ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT;
}
static int required(const OrtCustomOp* op, size_t index) { (void)op; (void)index; return ORT_INPUT_REQUIRED; }
/* What a fused node reads depends on the neuron: it has inputs of any number and any type. */
static int input_characteristic(const OrtCustomOp* op, size_t index) {
  (void)index;
  return of(op)->kind >= SXQ_FUSED ? ORT_INPUT_VARIADIC : ORT_INPUT_REQUIRED;
}
static int homogeneous(const OrtCustomOp* op) { return of(op)->kind < SXQ_FUSED; }
static int memory_type(const OrtCustomOp* op, size_t index) { (void)op; (void)index; return ORT_MEMORY_DEFAULT; }
static int one(const OrtCustomOp* op) { (void)op; return 1; }
static int last_version(const OrtCustomOp* op) { (void)op; return 1; }
static int get_input_type(const OrtCustomOp* op, size_t index) {
  const sxq_kind kind = of(op)->kind;
  if (kind >= SXQ_FUSED) return ORT_TYPE_ANY;
  if (of(op)->types) return of(op)->types[index];
  if (kind == SXQ_SYNCHRONOUS_FOLDED && index == 0) return ORT_TYPE_INT32;
  if (kind >= SXQ_NEURON) return of(op)->spec.integer ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT;
  if (index == 1) return ORT_TYPE_UINT8;
  if (sums_integers(kind)) {
    return kind == SXQ_MATMUL_INTEGER || kind == SXQ_CONV_INTEGER ? ORT_TYPE_UINT8 : ORT_TYPE_INT8;
  }
  if (kind == SXQ_EMBEDDING || kind == SXQ_EMBEDDING_INTEGER) {
    return index == 0 ? ORT_TYPE_ANY : kind == SXQ_EMBEDDING ? ORT_TYPE_FLOAT : ORT_TYPE_INT32;
  }
  return ORT_TYPE_FLOAT;
}

/* What makes, runs and frees the kernels of a kind; those of most kinds own nothing but their memory. */
typedef struct {
  OrtStatus* (*create)(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*compute)(void* kernel, OrtKernelContext*);
  void (*destroy)(void* kernel);
} kernel_functions;

#define KERNEL(name) {sxq_##name##_create, sxq_##name##_compute, free}
#define OWNING_KERNEL(name) {sxq_##name##_create, sxq_##name##_compute, sxq_##name##_destroy}

static const kernel_functions functions[SXQ_KINDS] = {
    [SXQ_LINEAR] = OWNING_KERNEL(linear),
    [SXQ_LINEAR_INTEGER] = OWNING_KERNEL(linear),
    [SXQ_CONV] = OWNING_KERNEL(conv),
    [SXQ_CONV_INTEGER] = OWNING_KERNEL(conv),
    [SXQ_CONV_INTEGER_SIGNED] = OWNING_KERNEL(conv),
    [SXQ_EMBEDDING] = OWNING_KERNEL(embedding),
    [SXQ_EMBEDDING_INTEGER] = OWNING_KERNEL(embedding),
    [SXQ_MATMUL_INTEGER] = OWNING_KERNEL(matmul_integer),
    [SXQ_MATMUL_INTEGER_SIGNED] = OWNING_KERNEL(matmul_integer),
    [SXQ_LINEAR_ROUNDED] = OWNING_KERNEL(rounded),
    [SXQ_NEURON] = KERNEL(neuron),
    [SXQ_SYNCHRONOUS_FOLDED] = KERNEL(synchronous),
    [SXQ_SYNCHRONOUS_COUNTS] = KERNEL(synchronous),
    [SXQ_SYNCHRONOUS_RATES] = KERNEL(synchronous),
    [SXQ_SYNCHRONOUS_SPIKES] = KERNEL(synchronous),
    [SXQ_STEP_SUMS] = KERNEL(step_sums),
    [SXQ_STEP_COUNTS] = KERNEL(step_sums),
    [SXQ_SHIFT_NORM] = KERNEL(shift),
    [SXQ_SHIFT_SOFTMAX] = KERNEL(shift),
    [SXQ_TOKEN_NORM] = KERNEL(language),
    [SXQ_EXACT_SIGMOID] = KERNEL(language),
    [SXQ_WEIGHTED_AVERAGE] = KERNEL(language),
    [SXQ_INT_TOKEN_NORM] = KERNEL(integer_tokens),
    [SXQ_INT_HALVES] = KERNEL(integer_tokens),
    [SXQ_INT_GATED] = KERNEL(integer_tokens),
    [SXQ_INT_SQUARED] = KERNEL(integer_tokens),
    [SXQ_INT_AVERAGE] = KERNEL(integer_average),
    [SXQ_INT_SCALE] = KERNEL(integer_scale),
    [SXQ_INT_RESIDUAL] = KERNEL(integer_scale),
    [SXQ_FUSED] = OWNING_KERNEL(fused),
    [SXQ_ATTENTION] = KERNEL(attention),
    [SXQ_SOFT_ATTENTION] = KERNEL(soft_attention),
    [SXQ_CURRENTS] = KERNEL(currents),
    [SXQ_COUNTS] = KERNEL(currents),
    [SXQ_VALUES] = KERNEL(currents),
    [SXQ_WHOLE_PRODUCT] = OWNING_KERNEL(whole_product),
};

static OrtStatus* create(const OrtCustomOp* base, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  return functions[of(base)->kind].create(of(base), api, info, kernel);
}
static OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  return functions[((sxq_kernel*)kernel)->op->kind].compute(kernel, context);
}
static void destroy(void* kernel) { functions[((sxq_kernel*)kernel)->op->kind].destroy(kernel); }

static sxq_operator* add(sxq_kind kind, size_t inputs, size_t outputs) {
  sxq_operator* op = &operators[operator_count++];
  op->base = (OrtCustomOp){
      .version = ORT_INTERFACE_VERSION,
      .get_name = get_name,
      .get_execution_provider_type = get_provider,
      .get_input_type = get_input_type,
      .get_input_type_count = get_input_count,
      .get_output_type = get_output_type,
      .get_output_type_count = get_output_count,
      .kernel_destroy = destroy,
      .get_input_characteristic = input_characteristic,
      .get_output_characteristic = required,
      .get_input_memory_type = memory_type,
      .get_variadic_input_min_arity = one,
      .get_variadic_input_homogeneity = homogeneous,
      .get_variadic_output_min_arity = one,
      .get_variadic_output_homogeneity = one,
      .create_kernel_v2 = create,
      .kernel_compute_v2 = compute,
      .get_start_version = one,
      .get_end_version = last_version,
  };
  op->kind = kind;
  op->inputs = inputs;
  op->outputs = outputs;
  return op;
}

static void add_layers(void) {
  static const struct {
    sxq_kind kind;
    const char* suffix;
    bool of_spikes; /* whether a session may take it for some nodes only, by another name */
    int most_bits;  /* of codes: the operator is not made for wider ones */
  } kinds[] = {
      {SXQ_LINEAR, "Linear", false, 16},
      {SXQ_LINEAR_INTEGER, "LinearInteger", true, 8},
      {SXQ_LINEAR_INTEGER, "LinearIntegerSigned", true, 7},
      {SXQ_LINEAR_ROUNDED, "LinearRounded", false, 8},
      {SXQ_CONV, "Conv", true, 16},
      {SXQ_CONV_INTEGER, "ConvInteger", true, 16},
      {SXQ_CONV_INTEGER_SIGNED, "ConvIntegerSigned", true, 16},
      {SXQ_EMBEDDING, "Embedding", false, 16},
      {SXQ_EMBEDDING_INTEGER, "EmbeddingInteger", false, 16},
      {SXQ_MATMUL_INTEGER, "MatMulInteger", true, 16},
      {SXQ_MATMUL_INTEGER_SIGNED, "MatMulIntegerSigned", true, 16}};
  for (int l = 0; l < SXQ_LAYOUTS; ++l) {
    sxq_fill_table(&sxq_layouts[l], &tables[l]);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
      if (sxq_code_bits(&sxq_layouts[l]) > kinds[k].most_bits) continue;
      sxq_operator* op = add(kinds[k].kind, sums_integers(kinds[k].kind) ? 2 : 3, 1);
      snprintf(op->name, sizeof op->name, "%s%s", sxq_layouts[l].prefix, kinds[k].suffix);
      op->layout = &sxq_layouts[l];
      op->table = &tables[l];
      if (kinds[k].of_spikes) {
        sxq_operator* again = add(op->kind, op->inputs, 1);
        snprintf(again->name, sizeof again->name, "%s%sOfSpikes", sxq_layouts[l].prefix, kinds[k].suffix);
        again->layout = op->layout;
        again->table = op->table;
      }
    }
  }
}

/* All that a spec allows, but neurons with a recurrent layer: those keep their bodies. */
static void add_neurons(void) {
  const int choices[] = {SXQ_CHARGES, SXQ_COMPARISONS, SXQ_RESETS, SXQ_TIMINGS, SXQ_FIRES, 2, 2, 2, 2, 2};
  int total = 1;
  for (size_t i = 0; i < sizeof choices / sizeof *choices; ++i) total *= choices[i];
  for (int number = 0; number < total; ++number) {
    int rest = number, digit[10];
    for (int i = 0; i < 10; ++i) {
      digit[i] = rest % choices[i];
      rest /= choices[i];
    }
    const sxq_spec spec = {digit[0], digit[1], digit[2], digit[3], digit[4], digit[5], digit[6], digit[7],
                           digit[8], digit[9]};
    if (!sxq_spec_legal(&spec)) continue;
    const size_t states = sxq_spec_states(&spec);
    const size_t inputs = 1 + states + (size_t)sxq_spec_parameters(&spec).count;
    sxq_operator* op = add(SXQ_NEURON, inputs, spec.step || spec.states ? 1 + states : 1);
    op->spec = spec;
    sxq_spec_name(&spec, op->name);
  }
}

static void add_synchronous(void) {
  static const struct {
    sxq_kind kind;
    const char* name;
    size_t inputs;
    bool signed_counts;
  } kinds[] = {
      {SXQ_SYNCHRONOUS_FOLDED, "SynchronousFolded", 3, false},
      {SXQ_SYNCHRONOUS_COUNTS, "SynchronousCounts", 2, false},
      {SXQ_SYNCHRONOUS_COUNTS, "SynchronousCounts_signed", 2, true},
      {SXQ_SYNCHRONOUS_RATES, "SynchronousRates", 2, false},
      {SXQ_SYNCHRONOUS_SPIKES, "SynchronousSpikes", 2, false},
      {SXQ_STEP_SUMS, "StepSums", 1, false},
      {SXQ_STEP_COUNTS, "StepCounts", 1, false}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
    sxq_operator* op = add(kinds[k].kind, kinds[k].inputs, 1);
    snprintf(op->name, sizeof op->name, "%s", kinds[k].name);
    op->signed_counts = kinds[k].signed_counts;
  }
}

static void add_shifts(void) {
  static const struct {
    sxq_kind kind;
    const char* name;
  } kinds[] = {{SXQ_SHIFT_NORM, "ShiftNorm"}, {SXQ_SHIFT_SOFTMAX, "ShiftSoftmax"}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
    sxq_operator* op = add(kinds[k].kind, 1, 1);
    snprintf(op->name, sizeof op->name, "%s", kinds[k].name);
  }
}

static void add_language(void) {
  static const struct {
    sxq_kind kind;
    const char* name;
    size_t inputs, outputs;
  } kinds[] = {
      {SXQ_TOKEN_NORM, "TokenNorm", 3, 1},
      {SXQ_EXACT_SIGMOID, "ExactSigmoid", 1, 1},
      {SXQ_WEIGHTED_AVERAGE, "WeightedAverage", 6, 3},
      {SXQ_WEIGHTED_AVERAGE, "StepWeightedAverage", 6, 3}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
    sxq_operator* op = add(kinds[k].kind, kinds[k].inputs, kinds[k].outputs);
    snprintf(op->name, sizeof op->name, "%s", kinds[k].name);
  }
}

/* Operators of whole numbers, by the types of inputs and outputs. */
static void add_whole(void) {
  enum { I8 = ORT_TYPE_INT8, U8 = ORT_TYPE_UINT8, I32 = ORT_TYPE_INT32, I64 = ORT_TYPE_INT64 };
  static const struct {
    sxq_kind kind;
    const char* name;
    size_t inputs, outputs;
    int types[9];
  } kinds[] = {
      {SXQ_INT_TOKEN_NORM, "IntTokenNorm", 3, 1, {I32, I64, I64, I32}},
      {SXQ_INT_HALVES, "IntHalves", 1, 2, {I32, I8, U8}},
      {SXQ_INT_GATED, "IntGated", 2, 1, {I32, I32, I32}},
      {SXQ_INT_SQUARED, "IntSquared", 1, 1, {I32, I32}},
      {SXQ_INT_AVERAGE, "IntWeightedAverage", 6, 3, {I32, I32, I64, I32, I64, I64, I32, I64, I64}},
      {SXQ_INT_AVERAGE, "StepIntWeightedAverage", 6, 3, {I32, I32, I64, I32, I64, I64, I32, I64, I64}},
      {SXQ_INT_SCALE, "IntScale", 5, 1, {I32, I64, I64, I32, I32, I32}},
      {SXQ_INT_RESIDUAL, "IntResidual", 5, 1, {I32, I32, I64, I64, I64, I32}}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
    sxq_operator* op = add(kinds[k].kind, kinds[k].inputs, kinds[k].outputs);
    snprintf(op->name, sizeof op->name, "%s", kinds[k].name);
    op->types = kinds[k].types;
  }
}

/* A product and its neurons; which ones, the attributes say. The name says what onnxruntime needs to know. */
static void add_fused(void) {
  static const struct {
    int type;
    const char* name;
  } spikes[] = {{ORT_TYPE_FLOAT, "float"}, {ORT_TYPE_UINT8, "bytes"}, {ORT_TYPE_INT8, "signed"}};
  for (size_t i = 0; i < sizeof spikes / sizeof *spikes; ++i) {
    for (size_t states = 0; states <= SXQ_MAX_STATES; ++states) {
      for (int integer = 0; integer < 2; ++integer) {
        if (integer && (!states || spikes[i].type == ORT_TYPE_FLOAT)) continue;
        sxq_operator* op = add(SXQ_FUSED, 1, 1 + states);
        op->spikes = spikes[i].type;
        op->spec.integer = integer;
        const int written = snprintf(op->name, sizeof op->name, "FusedNeurons_%s", spikes[i].name);
        if (states) {
          snprintf(
              op->name + written, sizeof op->name - (size_t)written, "_%zu_%s_states", states,
              integer ? "integer" : "float");
        }
      }
    }
  }
}

static void add_attention(void) {
  for (int integer = 0; integer < 2; ++integer) {
    sxq_operator* op = add(SXQ_ATTENTION, 1, 1);
    op->spec.integer = integer;
    snprintf(op->name, sizeof op->name, "FusedAttention_%s", integer ? "integer" : "float");
  }
}

static void add_others_fused(void) {
  sxq_operator* op = add(SXQ_SOFT_ATTENTION, 1, 1);
  snprintf(op->name, sizeof op->name, "FusedSoftAttention");
  op = add(SXQ_CURRENTS, 1, 1);
  op->spikes = ORT_TYPE_FLOAT;
  snprintf(op->name, sizeof op->name, "FusedCurrents");
  op = add(SXQ_COUNTS, 1, 1);
  snprintf(op->name, sizeof op->name, "FusedCounts");
  op = add(SXQ_VALUES, 1, 1);
  snprintf(op->name, sizeof op->name, "FusedValues");
  op = add(SXQ_WHOLE_PRODUCT, 1, 1);
  op->spec.integer = true;
  snprintf(op->name, sizeof op->name, "FusedWholeProduct");
}

/* Make the table; the first caller does it, and a second one at the same time waits. */
static bool prepare(void) {
  static atomic_int progress; /* 0 nothing, 1 in the making, 2 ready */
  int expected = 0;
  if (atomic_compare_exchange_strong(&progress, &expected, 1)) {
    operators = calloc(MOST_OPERATORS, sizeof *operators);
    if (!operators) {
      atomic_store(&progress, 0);
      return false;
    }
    sxq_fill_powers();
    add_layers();
    add_neurons();
    add_synchronous();
    add_shifts();
    add_language();
    add_whole();
    add_fused();
    add_attention();
    add_others_fused();
    atomic_store(&progress, 2);
  }
  while (atomic_load(&progress) == 1) continue;
  return operators != NULL;
}

SXQ_EXPORT size_t sxq_operator_count(void) {
  return prepare() ? operator_count : 0;
}

SXQ_EXPORT const char* sxq_operator_name(size_t index) {
  return index < sxq_operator_count() ? operators[index].name : NULL;
}

const sxq_operator* sxq_operator_at(size_t index) { return &operators[index]; }

const sxq_operator* sxq_find_operator(const char* name) {
  for (size_t i = 0; i < operator_count; ++i) {
    if (!strcmp(operators[i].name, name)) return &operators[i];
  }
  return NULL;
}
