; SPDX-License-Identifier: Apache-2.0
; Softmax with an attention sink (gpt-oss): a learned logit per head takes part in the sum and has no value of its own.
; The online softmax begins with it instead of with `first`. Four heads, two blocks of 16 keys; machine with 16 columns.
;   rows 0-3    scores of the first block in Q9 of log2 units, a row a head
;   rows 4-7    scores of the second block; 11 of its keys exist
;   row 8-11    element 0: the head's sink in the same units
;   result      probabilities in Q15, rows 16-19 and 20-23
; A layer sends a block's exponentials to the activation buffers, as int8, and corrects and divides the rows of the context;
; here they stay in rows (Q15) and are corrected and divided themselves, so that the recurrence can be seen without GEMMs.

; the sink: maximum and sum begin with it
vector op=max first=1 masked=1 length=1 vectors=4 rows=1 a=8 a_stride=1 d_scalar=0
vector op=map fn=exp2 sum=sum first=1 masked=1 length=1 vectors=4 rows=1 a=8 a_stride=1 s=0 mult=1 bits=bits16 dest_kind=none d_scalar=4
; first block
vector op=max vectors=4 rows=1 a=0 a_stride=1 s=0 d_scalar=0
vector op=map fn=exp2 sum=sum vectors=4 rows=1 a=0 a_stride=1 s=0 mult=1 bits=bits16 dest_kind=rows dest=16 dest_stride=1 d_scalar=4
; second and last block: what came before is corrected if the maximum has grown
vector op=max masked=1 length=11 vectors=4 rows=1 a=4 a_stride=1 s=0 d_scalar=0
vector op=map fn=exp2 sum=sum_recip masked=1 length=11 vectors=4 rows=1 a=4 a_stride=1 s=0 mult=1 imm=32768 bits=bits16 dest_kind=rows dest=20 dest_stride=1 d_scalar=4
vector op=rescale vectors=4 rows=1 a=16 a_stride=1 s=0 bits=bits16 dest_kind=rows dest=16 dest_stride=1
vector op=scale vectors=4 rows=1 a=16 a_stride=1 s=4 shift=17 bits=bits16 dest_kind=rows dest=16 dest_stride=1
vector op=scale vectors=4 rows=1 a=20 a_stride=1 s=4 shift=17 bits=bits16 dest_kind=rows dest=20 dest_stride=1
