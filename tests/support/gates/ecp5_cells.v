// SPDX-License-Identifier: Apache-2.0
// Models of the two cells of the ECP5 for which Yosys has black boxes only, as far as `synth_lattice` uses them: no
// registers within, no reset, one clock. What they are not made for ends the simulation.

module MULT18X18D #(
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_PIPELINE_CLK = "NONE", REG_OUTPUT_CLK = "NONE"
) (
  input wire A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input wire B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input wire C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
  input wire SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
  output wire P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16,
    P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
  // One bit more, which is the sign of a signed operand.
  wire signed [18:0] a = {SIGNEDA & A17, A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1,
      A0};
  wire signed [18:0] b = {SIGNEDB & B17, B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1,
      B0};
  wire signed [37:0] product = a * b;
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15,
      P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = product[35:0];
  initial
    if (REG_INPUTA_CLK != "NONE" || REG_INPUTB_CLK != "NONE" || REG_PIPELINE_CLK != "NONE" || REG_OUTPUT_CLK !=
        "NONE")
      $fatal(1, "MULT18X18D: a register within");
endmodule

// A memory of 512 x 36 bits with two ports that each read and write 1, 2, 4, 9, 18 or 36 bits. What one port reads
// while the other writes it is random here, since the parts promise nothing: logic around has to see to it.
module DP16KD #(
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18,
  parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC",
  parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL", CLKAMUX = "CLKA", CLKBMUX = "CLKB",
  parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", GSR = "AUTO",
  parameter [319:0]
    INITVAL_00 = 320'd0, INITVAL_01 = 320'd0, INITVAL_02 = 320'd0, INITVAL_03 = 320'd0,
    INITVAL_04 = 320'd0, INITVAL_05 = 320'd0, INITVAL_06 = 320'd0, INITVAL_07 = 320'd0,
    INITVAL_08 = 320'd0, INITVAL_09 = 320'd0, INITVAL_0A = 320'd0, INITVAL_0B = 320'd0,
    INITVAL_0C = 320'd0, INITVAL_0D = 320'd0, INITVAL_0E = 320'd0, INITVAL_0F = 320'd0,
    INITVAL_10 = 320'd0, INITVAL_11 = 320'd0, INITVAL_12 = 320'd0, INITVAL_13 = 320'd0,
    INITVAL_14 = 320'd0, INITVAL_15 = 320'd0, INITVAL_16 = 320'd0, INITVAL_17 = 320'd0,
    INITVAL_18 = 320'd0, INITVAL_19 = 320'd0, INITVAL_1A = 320'd0, INITVAL_1B = 320'd0,
    INITVAL_1C = 320'd0, INITVAL_1D = 320'd0, INITVAL_1E = 320'd0, INITVAL_1F = 320'd0,
    INITVAL_20 = 320'd0, INITVAL_21 = 320'd0, INITVAL_22 = 320'd0, INITVAL_23 = 320'd0,
    INITVAL_24 = 320'd0, INITVAL_25 = 320'd0, INITVAL_26 = 320'd0, INITVAL_27 = 320'd0,
    INITVAL_28 = 320'd0, INITVAL_29 = 320'd0, INITVAL_2A = 320'd0, INITVAL_2B = 320'd0,
    INITVAL_2C = 320'd0, INITVAL_2D = 320'd0, INITVAL_2E = 320'd0, INITVAL_2F = 320'd0,
    INITVAL_30 = 320'd0, INITVAL_31 = 320'd0, INITVAL_32 = 320'd0, INITVAL_33 = 320'd0,
    INITVAL_34 = 320'd0, INITVAL_35 = 320'd0, INITVAL_36 = 320'd0, INITVAL_37 = 320'd0,
    INITVAL_38 = 320'd0, INITVAL_39 = 320'd0, INITVAL_3A = 320'd0, INITVAL_3B = 320'd0,
    INITVAL_3C = 320'd0, INITVAL_3D = 320'd0, INITVAL_3E = 320'd0, INITVAL_3F = 320'd0
) (
  input wire DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
    DIA1, DIA0,
  input wire DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2,
    DIB1, DIB0,
  input wire ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input wire ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input wire CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  input wire CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output wire DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3,
    DOA2, DOA1, DOA0,
  output wire DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3,
    DOB2, DOB1, DOB0
);
  localparam [20479:0] INITIAL = {INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A,
      INITVAL_39, INITVAL_38,
      INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
      INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
      INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
      INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
      INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
      INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
      INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00};
  reg [35:0] memory [0:511];
  integer i;
  initial begin
    // Words of 18 bits, each in 20.
    for (i = 0; i < 512; i = i + 1) memory[i] = {INITIAL[40 * i + 20 +: 18], INITIAL[40 * i +: 18]};
    if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
        || CSDECODE_A != "0b000" || CSDECODE_B != "0b000")
      $fatal(1, "DP16KD: an option that is not modelled");
  end

  // First bit within the 36 that an address means: halves, bytes of 9 bits, and parts of 8 of these.
  function [5:0] first_bit(input [5:0] width, input [13:0] address);
    first_bit = (width < 36 && address[4] ? 6'd18 : 6'd0) + (width < 18 && address[3] ? 6'd9 : 6'd0)
      + (width < 9 && address[2] ? 6'd4 : 6'd0) + (width < 4 && address[1] ? 6'd2 : 6'd0)
      + (width < 2 && address[0] ? 6'd1 : 6'd0);
  endfunction

  function [35:0] all_of(input [5:0] width);
    all_of = (37'd1 << width) - 37'd1;
  endfunction

  // The bits that a write means: of wide ports the low address bits enable bytes.
  function [35:0] enabled(input [5:0] width, input [13:0] address);
    enabled = width == 36 ? {{9{address[3]}}, {9{address[2]}}, {9{address[1]}}, {9{address[0]}}}
      : width == 18 ? {18'd0, {9{address[1]}}, {9{address[0]}}} : all_of(width);
  endfunction

  wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [35:0] data_a = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4,
      DIB3, DIB2, DIB1, DIB0,
                        DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4,
                            DIA3, DIA2, DIA1, DIA0};
  wire [35:0] data_b = {18'd0, DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
      DIB4, DIB3, DIB2, DIB1, DIB0};
  wire [5:0] shift_a = first_bit(DATA_WIDTH_A, address_a);
  wire [5:0] shift_b = first_bit(DATA_WIDTH_B, address_b);
  wire chosen_a = CEA && {CSA2, CSA1, CSA0} == 3'd0;
  wire chosen_b = CEB && {CSB2, CSB1, CSB0} == 3'd0;
  wire [35:0] write_a = chosen_a && WEA ? enabled(DATA_WIDTH_A, address_a) << shift_a : 36'd0;
  wire [35:0] write_b = chosen_b && WEB ? enabled(DATA_WIDTH_B, address_b) << shift_b : 36'd0;
  wire same = address_a[13:5] == address_b[13:5];
  wire [35:0] found_a = memory[address_a[13:5]];
  wire [35:0] found_b = memory[address_b[13:5]];
  wire [35:0] written_a = found_a & ~write_a | (data_a << shift_a) & write_a;
  wire [35:0] written_b = found_b & ~write_b | (data_b << shift_b) & write_b;

  reg [35:0] out_a = 36'd0, out_b = 36'd0;
  reg [35:0] noise;
  wire [35:0] seen_a = WRITEMODE_A == "READBEFOREWRITE" ? found_a : written_a;
  wire [35:0] seen_b = WRITEMODE_B == "READBEFOREWRITE" ? found_b : written_b;
  wire [35:0] unsure_a = same ? write_b : 36'd0;
  wire [35:0] unsure_b = same ? write_a : 36'd0;

  // One of the two may be tied down where its port is not used.
  wire clock = CLKA | CLKB;
  always @(posedge clock) begin
    noise = {$random, $random};
    if (write_a != 36'd0 && write_b != 36'd0 && same)
      memory[address_a[13:5]] <= (written_a & ~write_b | written_b & write_b) ^ (noise & write_a & write_b);
    else begin
      if (write_a != 36'd0) memory[address_a[13:5]] <= written_a;
      if (write_b != 36'd0) memory[address_b[13:5]] <= written_b;
    end
    if (RSTA || RSTB) $fatal(1, "DP16KD: a reset, which is not modelled");
    if (chosen_a && !(WEA && WRITEMODE_A == "NORMAL"))
      out_a <= ((seen_a ^ (noise & unsure_a)) >> shift_a) & all_of(DATA_WIDTH_A);
    if (chosen_b && !(WEB && WRITEMODE_B == "NORMAL"))
      out_b <= ((seen_b ^ (noise & unsure_b)) >> shift_b) & all_of(DATA_WIDTH_B);
  end

  // A port of 36 bits takes the outputs of both.
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
      DOA1, DOA0} = DATA_WIDTH_B == 36 ? out_b[17:0] : out_a[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2,
      DOB1, DOB0} = DATA_WIDTH_B == 36 ? out_b[35:18] : out_b[17:0];
endmodule
