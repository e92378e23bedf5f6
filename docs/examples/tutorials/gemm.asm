; One GEMM on `nano`: four tokens of four inputs, times a tile of 4 x 4 weights.
load dest_kind=activation dest_tiers=0 count=4 addr=0x20 post=s0
load dest_kind=parameter dest_tiers=0 count=1 addr=0x21 post=s0
load group=1 dest_kind=vcache dest_tiers=0 count=1 tag=1 addr=0x20
gemm tokens=4 k_slices=1 n_tiles=1 act_stride=1 tag=1 mode=requant16 shift=8 dest_kind=combine dest_stride=1 wait=s0:2 post=s1
store format=int16 rows=4 group=1 addr=0x40 wait=s1
end
