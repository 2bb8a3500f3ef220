/* Rows of inputs that hold 0, 1 and -1, as lists of the rows of codes that they select. */
#ifndef SXQ_SPIKE_LISTS_H
#define SXQ_SPIKE_LISTS_H

#include "kernels.h"

typedef struct {
  const sxq_kernels* kernels;
  const sxq_codes* codes;
  float grid;      /* what is 1, of inputs in floats */
  uint32_t* rows;  /* where the lists are, one after the other */
  uint32_t* minus; /* room for one list more */
  size_t used;
  bool is_signed; /* whether a row of floats had a -1 */
} sxq_spike_lists;

/* Entries that the list of a row may take. */
size_t sxq_list_room(const sxq_codes* codes);

/* Put the list of one row of inputs behind the others; false if the row holds anything else. */
bool sxq_list_floats(sxq_spike_lists* lists, const float* x, sxq_selection* selected);
bool sxq_list_bytes(sxq_spike_lists* lists, const uint8_t* x, bool is_signed, sxq_selection* selected);

#endif
