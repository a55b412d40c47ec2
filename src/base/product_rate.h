/* product_rate.h - the rate of a matrix product of any size, from those of three sizes.
 *
 * Small matrices do not fill a GPU where rows are few, and large packed ones are unpacked past its
 * caches.  Both the cost model and the simulated machine reckon with this.
 * Layer: base.  May include: base.  Thread safety: pure functions.
 */
#ifndef SL_BASE_PRODUCT_RATE_H
#define SL_BASE_PRODUCT_RATE_H

/* Elements of the matrices whose rates are known: [4096, 4096], [16384, 4096], [28672, 7168]. */
enum {
    SL_PRODUCT_SMALL_ELEMS = 4096 * 4096,
    SL_PRODUCT_MEDIUM_ELEMS = 16384 * 4096,
    SL_PRODUCT_LARGE_ELEMS = 28672 * 7168
};

/* What the rate goes by of a matrix [outputs, cols]: its elements where it is packed; where it is
 * multiplied as it is, its outputs, which fill a GPU or do not, as elements of the small and the
 * medium one. */
double sl_product_size(int is_packed, double outputs, double cols);

/* The rate with a matrix of the size `elems` > 0: linear in log2(elems) between those of the three
 * sizes, beyond them constant.  small and large are 0 where nobody knows them; medium 0: the
 * machine cannot multiply, the result is 0. */
double sl_product_rate(double small, double medium, double large, double elems);

#endif
