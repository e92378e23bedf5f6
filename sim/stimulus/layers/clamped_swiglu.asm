; SPDX-License-Identifier: Apache-2.0
; The expert of gpt-oss between its two GEMMs: biases, g = min(gate, 7), u = clamp(up, -7, 7), g * sigmoid(1.702 g) * (u + 1).
; Four tokens, 64 channels; machine with 16 columns. Saturation is the clamp: 7.0 is 32767 in units of 2^-12.19. It clamps
; the gate below, too, at -7: there g * sigmoid(1.702 g) is within 5e-5 of 0.
;   rows 0-15   gate, int16 in Q10, four rows a token      rows 16-31  up, likewise
;   rows 32-35  gate's bias in units of 7/32767            rows 36-39  gate's bias times 1.702 in Q11
;   rows 40-43  up's bias in units of 7/32767              row 44      1.0 in units of 14/32767: 2340 in every lane
;   rows 48-63  scratch
;   result      int8 in units of 0.19 (2^21 / (32767/7 * 32767/14)), activation words 0-15 of tier 0
; The biases of the down-projection and of the router are weights of one more input channel whose activation is constant.

; 1.702 * (gate + bias) in Q11: what the sigmoid takes, saturated at 16
vector op=add vectors=4 rows=4 a=0 a_stride=4 b=36 b_rows=4 mult=27886 shift=13 bits=bits16 dest_kind=rows dest=48 dest_stride=4
; gate + bias, clamped at 7
vector op=add vectors=4 rows=4 a=0 a_stride=4 b=32 b_rows=4 mult=37448 shift=13 bits=bits16 dest_kind=rows dest=0 dest_stride=4
vector op=map fn=sigmoid vectors=4 rows=4 a=48 a_stride=4 mult=32768 shift=16 bits=bits16 dest_kind=rows dest=48 dest_stride=4
; up + bias, clamped; then half of it plus one in units twice as large, as u + 1 reaches 8
vector op=add vectors=4 rows=4 a=16 a_stride=4 b=40 b_rows=4 mult=37448 shift=13 bits=bits16 dest_kind=rows dest=16 dest_stride=4
vector op=mul vectors=4 rows=4 a=0 a_stride=4 b=48 b_stride=4 b_rows=4 shift=15 bits=bits16 dest_kind=rows dest=0 dest_stride=4
vector op=add vectors=4 rows=4 a=16 a_stride=4 b=44 b_rows=1 mult=1 shift=1 bits=bits16 dest_kind=rows dest=16 dest_stride=4
vector op=mul vectors=4 rows=4 a=0 a_stride=4 b=16 b_stride=4 b_rows=4 shift=21 dest_kind=activation dest_tiers=0 dest=0 dest_stride=4
