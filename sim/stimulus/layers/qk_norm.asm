; SPDX-License-Identifier: Apache-2.0
; QK-norm before RoPE (Qwen3-MoE): each head of a query is divided by its root mean square, then multiplied by weights.
; Four tokens, two heads of 32 channels; machine with 16 columns. Token t: rows 4t to 4t+3, two rows a head.
;   rows 0-15   queries, int16 in any unit (here 2^-11), RoPE's pairs adjacent
;   rows 16-17  norm weights, Q13
;   rows 20-35  RoPE tables (Q14), four rows a token: cosines, then signed sines
;   result      int8 in units of 1/16, activation words 0-15 of tier 0
; Keys: the same, with bits8 rows as the result. The weights can go into the tables (w[i] cos, w[i^1] sin): then the MUL
; is not needed and QK-norm costs two instructions.

; 1/sqrt(sum of squares + 32 * epsilon) * 0.7071; epsilon 1e-6 is 4.2 squared units, 32 of them 134
vector op=sumsq vectors=8 rows=2 a=0 a_stride=2 imm=134 mult=23170 d_scalar=0
; times 2^15: Q12 of x/rms (0.7071 * 8 is the square root of 32)
vector op=scale vectors=8 rows=2 a=0 a_stride=2 s=0 shift=17 bits=bits16 dest_kind=rows dest=0 dest_stride=2
; Q12 * Q13 -> Q11
vector op=mul vectors=8 rows=2 a=0 a_stride=2 b=16 b_rows=2 shift=14 bits=bits16 dest_kind=rows dest=0 dest_stride=2
; a token is one vector of two heads; Q11 * Q14 -> units of 1/16
vector op=rotate vectors=4 rows=4 a=0 a_stride=4 b=20 b_stride=4 b_rows=2 shift=21 dest_kind=activation dest_tiers=0 dest=0 dest_stride=4
