/* Tensors of random values, allocated to the byte. */
#ifndef FUZZ_TENSORS_H
#define FUZZ_TENSORS_H

#include "fuzz_runtime.h"

OrtValue* tensor(int type, size_t rank, const int64_t* shape);
void drop(OrtValue* value);

/* Kinds of floats: 0 spikes, 1 counts, 2 signed spikes, 3 numbers on a grid, 4 what is hardly a number. */
void fill(OrtValue* value, int kind);

/* Random codes; what fills a row's last byte is random. */
OrtValue* packed_codes(const sxq_layout* layout, int64_t rows, int64_t columns);

/* The code in row k, column n of what packed_codes gave, found bit by bit as docs/operators.md has it. */
int code_at(const sxq_layout* layout, const OrtValue* packed, int64_t k, int64_t columns, int64_t n);

/* Damage in one of many ways: another byte, another shape, another rank. */
void damage(OrtValue* value);

#endif
