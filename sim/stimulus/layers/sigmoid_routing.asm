; SPDX-License-Identifier: Apache-2.0
; Routing by sigmoid with a bias that only the choice sees (DeepSeek-V3): the top 4 of 32 experts by sigmoid + bias, their
; sigmoids divided by their sum. Four tokens; machine with 16 columns.
;   rows 0-7    router logits, int16 in Q11, two rows a token
;   rows 8-9    bias of each expert (e_score_correction_bias), Q14
;   rows 10-17  sigmoids, Q14
;   rows 18-25  what the choice is made by, Q14
;   result      CHOICE scalars 0-15 (choice j of token t: 4j+t); gates in Q15, lanes 0-3 of rows 26-29: as ROUTE wants them
; routed_scaling_factor goes into the scale of the experts' down-projections. A shared expert is one more expert for all
; tokens: its GEMMs go through a token list with gate 1.0, as the O-projection does.

vector op=map fn=sigmoid vectors=4 rows=2 a=0 a_stride=2 mult=16384 shift=16 bits=bits16 dest_kind=rows dest=10 dest_stride=2
vector op=add vectors=4 rows=2 a=10 a_stride=2 b=8 b_rows=2 mult=1 bits=bits16 dest_kind=rows dest=18 dest_stride=2
vector op=argmax first=1 vectors=4 rows=2 a=18 a_stride=2 d_scalar=0
vector op=argmax vectors=4 rows=2 a=18 a_stride=2 s=0 d_scalar=4
vector op=argmax vectors=4 rows=2 a=18 a_stride=2 s=4 d_scalar=8
vector op=argmax vectors=4 rows=2 a=18 a_stride=2 s=8 d_scalar=12
; the chosen experts' sigmoids without the bias
vector op=gather vectors=4 rows=2 a=10 a_stride=2 length=4 s=0 bits=bits16 dest_kind=rows dest=26 dest_stride=1
; 1/sum, then gates in Q15
vector op=map sum=sum_recip first=1 masked=1 length=4 vectors=4 rows=1 a=26 a_stride=1 mult=1 imm=32768 bits=bits16 dest_kind=none d_scalar=16
vector op=scale vectors=4 rows=1 a=26 a_stride=1 s=16 shift=17 bits=bits16 dest_kind=rows dest=26 dest_stride=1
route tokens=4 choices=4 experts=32 s=0 a=26 a_stride=1 list=0 source_stride=8 dest=64 dest_stride=8
