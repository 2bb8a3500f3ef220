/* What is computed of currents, value by value with constants or row by row, before neurons read them. */
#ifndef SXQ_CURRENTS_H
#define SXQ_CURRENTS_H

#include "operators.h"
#include "shift_norm.h"

enum { SXQ_MOST_OPERATIONS = 16 };

/* Numbers of the operations, as the attribute `program` has them. */
enum {
  SXQ_ADD, SXQ_SUB, SXQ_MUL, SXQ_DIV, /* x op c */
  SXQ_CLIP,                           /* between two numbers */
  SXQ_ROUND, SXQ_FLOOR, SXQ_RELU,
  SXQ_GELU,        /* x (c (erf(x / a) + b)) of three numbers */
  SXQ_RESIDUAL,    /* x + r: values as x has them */
  SXQ_CARRIED,     /* x + s c: spikes or rates s as x has values */
  SXQ_COUNTED,     /* x + ((n - zero) scale) c: counts n in bytes, zero and scale one number */
  SXQ_ROW_NORM,  /* of a row: weight and bias */
  SXQ_ROW_SHIFT_NORM, /* of a row by shifts, in units */
  SXQ_OPERATIONS,
  SXQ_ON_GRID = SXQ_OPERATIONS /* made here of a division, a clip, a product, a rounding and a product */
};

/* The operations of a node. */
typedef struct {
  size_t length;
  int operation[SXQ_MOST_OPERATIONS];
  bool by_rows;  /* whether one needs whole rows, or values beside them */
  float epsilon; /* of a norm */
} sxq_program;

/* Values of (..., columns) whose rows are those of the result, or repeated along some of its axes. */
typedef struct {
  const void* data;
  bool bytes, repeated;
  size_t rank, shape[SXQ_MAX_RANK], stride[SXQ_MAX_RANK]; /* of the result's axes but the last; strides in rows */
} sxq_rows;

/* The same with the constants of a run: `columns` numbers, or one for all. */
typedef struct {
  size_t length, columns; /* `columns` is 1 if all constants are one number and no operation needs rows */
  bool by_rows;
  struct {
    int operation;
    const float* a; /* of the columns, or of all */
    bool of_columns;
    float least, most, up, down; /* of a clip; of a grid; the last two also of a GELU: b and c; of counts: scale, zero */
    const float* b;              /* of a norm */
    sxq_rows beside;
  } step[SXQ_MOST_OPERATIONS];
  float epsilon;
  sxq_shift_norm norm;
  sxq_rows x;
  int64_t shape[SXQ_MAX_RANK]; /* of the result */
  size_t rank;
  const sxq_kernels* kernels;
} sxq_currents;

/* Read the attributes. */
OrtStatus* sxq_program_read(const OrtApi* api, const OrtKernelInfo* info, const sxq_operator* op, sxq_program* program);

/* Read the constants, inputs from *next on, for values x, or of these columns where x is NULL; moves *next behind them. */
OrtStatus* sxq_currents_open(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, const sxq_kernels* kernels,
    const sxq_program* program, const sxq_tensor* x, size_t columns, size_t* next, sxq_currents* currents);

/* Let values go row by row that need not. */
void sxq_currents_by_rows(sxq_currents* currents, const sxq_tensor* x, size_t columns);

/* Compute `count` values in place, of columns from `column` on; not by rows. */
void sxq_currents_run(const sxq_currents* currents, size_t column, size_t count, float* values);

/* Compute row `row` of the result from that of x; `room` is as long. */
void sxq_currents_row(const sxq_currents* currents, size_t row, float* values, int32_t* room);

#endif
