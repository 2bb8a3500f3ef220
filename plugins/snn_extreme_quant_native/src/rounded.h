/* <packing>LinearRounded's inner loop: whole numbers, byte by byte, times packed digits. */
#ifndef SXQ_ROUNDED_H
#define SXQ_ROUNDED_H

#include <stddef.h>
#include <stdint.h>

enum { SXQ_ROUNDED_PLANES = 4, SXQ_ROUNDED_WIDTH = 64 };
/* Digits in as many bytes of codes as a tile has at most. */
enum { SXQ_ROUNDED_MOST = SXQ_ROUNDED_WIDTH * 8 };

/* The sums of one row of inputs over `width` bytes of every row of codes.
 *
 * Inputs are i = sum of 256^p byte_p, signed bytes; sums[p * width * digits + place] = sum over the rows of byte_p times the
 * digit. A digit d of the byte 16 l + 8 h + 4 g + j of the tile has the place ((2 h + g) digits + d) (width / 4) + 4 l + j.
 */
typedef struct {
  const uint8_t* codes; /* of the tile's first byte in the first row */
  size_t pitch;         /* bytes of a row */
  size_t rows;          /* K, at least 1 */
  size_t bytes;         /* of the tile that there are, up to its width */
  size_t ahead;         /* bytes behind the tile to fetch meanwhile in each row: its width, or 0 */
  const int32_t* quads; /* of each plane, the bytes of four inputs after the other; 0 behind the last */
  size_t quad_pitch;    /* numbers of a plane */
  int32_t* sums;
} sxq_rounded_tile;

typedef struct {
  size_t width; /* bytes of a tile */
  int most_bits; /* of a digit; wider ones are taken as two of half the bits */
  void (*sums)(int bits, int planes, const sxq_rounded_tile* tile);
} sxq_rounded_kernel;

/* The best that there is on this processor, no better than `name` (sxq_kernels.name). */
const sxq_rounded_kernel* sxq_rounded_here(const char* name);

#endif
