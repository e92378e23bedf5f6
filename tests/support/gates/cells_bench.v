// SPDX-License-Identifier: Apache-2.0
// Cells of the ECP5 with their pins as ports, for `cocotb_cells.py`.

module one_memory #(
  parameter WIDTH = 36, MODE = "NORMAL"
) (
  input wire clk,
  input wire [13:0] address_a, address_b,
  input wire [35:0] data_a,
  input wire [17:0] data_b,
  input wire enable_a, enable_b, write_a, write_b,
  output wire [17:0] out_a, out_b
);
  // A port of 36 bits takes the data pins of both.
  wire [17:0] low_b = WIDTH == 36 ? data_a[35:18] : data_b;
  DP16KD #(
    .DATA_WIDTH_A(WIDTH), .DATA_WIDTH_B(WIDTH), .WRITEMODE_A(MODE), .WRITEMODE_B(MODE),
    .INITVAL_00({16{20'h2abcd}}), .INITVAL_3F({16{20'h15432}})
  ) cell_ (
    .CLKA(clk), .CLKB(clk), .CEA(enable_a), .CEB(enable_b), .OCEA(1'b1), .OCEB(1'b1), .WEA(write_a), .WEB(write_b),
    .RSTA(1'b0), .RSTB(1'b0), .CSA2(1'b0), .CSA1(1'b0), .CSA0(1'b0), .CSB2(1'b0), .CSB1(1'b0), .CSB0(1'b0),
    .ADA0(address_a[0]), .ADA1(address_a[1]), .ADA2(address_a[2]), .ADA3(address_a[3]), .ADA4(address_a[4]),
    .ADA5(address_a[5]), .ADA6(address_a[6]), .ADA7(address_a[7]), .ADA8(address_a[8]), .ADA9(address_a[9]),
    .ADA10(address_a[10]), .ADA11(address_a[11]), .ADA12(address_a[12]), .ADA13(address_a[13]),
    .ADB0(address_b[0]), .ADB1(address_b[1]), .ADB2(address_b[2]), .ADB3(address_b[3]), .ADB4(address_b[4]),
    .ADB5(address_b[5]), .ADB6(address_b[6]), .ADB7(address_b[7]), .ADB8(address_b[8]), .ADB9(address_b[9]),
    .ADB10(address_b[10]), .ADB11(address_b[11]), .ADB12(address_b[12]), .ADB13(address_b[13]),
    .DIA0(data_a[0]), .DIA1(data_a[1]), .DIA2(data_a[2]), .DIA3(data_a[3]), .DIA4(data_a[4]), .DIA5(data_a[5]),
    .DIA6(data_a[6]), .DIA7(data_a[7]), .DIA8(data_a[8]), .DIA9(data_a[9]), .DIA10(data_a[10]), .DIA11(data_a[11]),
    .DIA12(data_a[12]), .DIA13(data_a[13]), .DIA14(data_a[14]), .DIA15(data_a[15]), .DIA16(data_a[16]),
    .DIA17(data_a[17]),
    .DOA0(out_a[0]), .DOA1(out_a[1]), .DOA2(out_a[2]), .DOA3(out_a[3]), .DOA4(out_a[4]), .DOA5(out_a[5]),
    .DOA6(out_a[6]), .DOA7(out_a[7]), .DOA8(out_a[8]), .DOA9(out_a[9]), .DOA10(out_a[10]), .DOA11(out_a[11]),
    .DOA12(out_a[12]), .DOA13(out_a[13]), .DOA14(out_a[14]), .DOA15(out_a[15]), .DOA16(out_a[16]), .DOA17(out_a[17]),
    .DOB0(out_b[0]), .DOB1(out_b[1]), .DOB2(out_b[2]), .DOB3(out_b[3]), .DOB4(out_b[4]), .DOB5(out_b[5]),
    .DOB6(out_b[6]), .DOB7(out_b[7]), .DOB8(out_b[8]), .DOB9(out_b[9]), .DOB10(out_b[10]), .DOB11(out_b[11]),
    .DOB12(out_b[12]), .DOB13(out_b[13]), .DOB14(out_b[14]), .DOB15(out_b[15]), .DOB16(out_b[16]), .DOB17(out_b[17]),
    .DIB0(low_b[0]), .DIB1(low_b[1]), .DIB2(low_b[2]), .DIB3(low_b[3]), .DIB4(low_b[4]), .DIB5(low_b[5]),
    .DIB6(low_b[6]), .DIB7(low_b[7]), .DIB8(low_b[8]), .DIB9(low_b[9]), .DIB10(low_b[10]), .DIB11(low_b[11]),
    .DIB12(low_b[12]), .DIB13(low_b[13]), .DIB14(low_b[14]), .DIB15(low_b[15]), .DIB16(low_b[16]), .DIB17(low_b[17])
  );
endmodule

module cells_bench (
  input wire clk,
  input wire [15:0] lut_in, output wire lut0, lut1, five, six,
  input wire [5:0] add_a, add_b, input wire add_carry, output wire [5:0] add_sum, output wire add_out,
  input wire [17:0] mult_a, mult_b, input wire mult_signed_a, mult_signed_b, output wire [35:0] mult_p,
  input wire ff_d, ff_enable, ff_reset, output wire ff_plain, ff_enabled, ff_set,
  input wire [3:0] small_data, small_write, small_read, input wire small_enable, output wire [3:0] small_out,
  input wire [13:0] address_a, address_b, input wire [35:0] data_a, input wire [17:0] data_b,
  input wire enable_a, enable_b, write_a, write_b,
  output wire [17:0] out36_a, out36_b, out18_a, out18_b, out9_a, out9_b, out4_a, out4_b, out1_a, out1_b
);
  wire lut2, lut3, five1;
  LUT4 #(.INIT(16'h6b2d)) a0(.A(lut_in[0]), .B(lut_in[1]), .C(lut_in[2]), .D(lut_in[3]), .Z(lut0));
  LUT4 #(.INIT(16'h1ee8)) a1(.A(lut_in[0]), .B(lut_in[1]), .C(lut_in[2]), .D(lut_in[3]), .Z(lut1));
  LUT4 #(.INIT(16'hc035)) a2(.A(lut_in[0]), .B(lut_in[1]), .C(lut_in[2]), .D(lut_in[3]), .Z(lut2));
  LUT4 #(.INIT(16'h9f01)) a3(.A(lut_in[0]), .B(lut_in[1]), .C(lut_in[2]), .D(lut_in[3]), .Z(lut3));
  PFUMX b0(.BLUT(lut0), .ALUT(lut1), .C0(lut_in[4]), .Z(five));
  PFUMX b1(.BLUT(lut2), .ALUT(lut3), .C0(lut_in[4]), .Z(five1));
  L6MUX21 c(.D0(five), .D1(five1), .SD(lut_in[5]), .Z(six));

  // As Yosys adds.
  wire [3:0] carry;
  assign carry[0] = add_carry;
  genvar i;
  generate
    for (i = 0; i < 3; i = i + 1) begin : adder
      CCU2C #(.INIT0(16'h96aa), .INIT1(16'h96aa), .INJECT1_0("NO"), .INJECT1_1("NO")) two(
        .CIN(carry[i]), .A0(add_a[2 * i]), .B0(add_b[2 * i]), .C0(1'b0), .D0(1'b1),
        .A1(add_a[2 * i + 1]), .B1(add_b[2 * i + 1]), .C1(1'b0), .D1(1'b1),
        .S0(add_sum[2 * i]), .S1(add_sum[2 * i + 1]), .COUT(carry[i + 1]));
    end
  endgenerate
  assign add_out = carry[3];

  MULT18X18D mult (
    .SIGNEDA(mult_signed_a), .SIGNEDB(mult_signed_b), .SOURCEA(1'b0), .SOURCEB(1'b0),
    .A0(mult_a[0]), .A1(mult_a[1]), .A2(mult_a[2]), .A3(mult_a[3]), .A4(mult_a[4]), .A5(mult_a[5]), .A6(mult_a[6]),
    .A7(mult_a[7]), .A8(mult_a[8]), .A9(mult_a[9]), .A10(mult_a[10]), .A11(mult_a[11]), .A12(mult_a[12]),
    .A13(mult_a[13]), .A14(mult_a[14]), .A15(mult_a[15]), .A16(mult_a[16]), .A17(mult_a[17]),
    .B0(mult_b[0]), .B1(mult_b[1]), .B2(mult_b[2]), .B3(mult_b[3]), .B4(mult_b[4]), .B5(mult_b[5]), .B6(mult_b[6]),
    .B7(mult_b[7]), .B8(mult_b[8]), .B9(mult_b[9]), .B10(mult_b[10]), .B11(mult_b[11]), .B12(mult_b[12]),
    .B13(mult_b[13]), .B14(mult_b[14]), .B15(mult_b[15]), .B16(mult_b[16]), .B17(mult_b[17]),
    .P0(mult_p[0]), .P1(mult_p[1]), .P2(mult_p[2]), .P3(mult_p[3]), .P4(mult_p[4]), .P5(mult_p[5]), .P6(mult_p[6]),
    .P7(mult_p[7]), .P8(mult_p[8]), .P9(mult_p[9]), .P10(mult_p[10]), .P11(mult_p[11]), .P12(mult_p[12]),
    .P13(mult_p[13]), .P14(mult_p[14]), .P15(mult_p[15]), .P16(mult_p[16]), .P17(mult_p[17]), .P18(mult_p[18]),
    .P19(mult_p[19]), .P20(mult_p[20]), .P21(mult_p[21]), .P22(mult_p[22]), .P23(mult_p[23]), .P24(mult_p[24]),
    .P25(mult_p[25]), .P26(mult_p[26]), .P27(mult_p[27]), .P28(mult_p[28]), .P29(mult_p[29]), .P30(mult_p[30]),
    .P31(mult_p[31]), .P32(mult_p[32]), .P33(mult_p[33]), .P34(mult_p[34]), .P35(mult_p[35]),
    .C0(1'b0), .C1(1'b0), .C2(1'b0), .C3(1'b0), .C4(1'b0), .C5(1'b0), .C6(1'b0), .C7(1'b0), .C8(1'b0), .C9(1'b0),
    .C10(1'b0), .C11(1'b0), .C12(1'b0), .C13(1'b0), .C14(1'b0), .C15(1'b0), .C16(1'b0), .C17(1'b0)
  );

  TRELLIS_FF #(.SRMODE("LSR_OVER_CE"), .CEMUX("1"), .LSRMUX("LSR"), .CLKMUX("CLK"), .REGSET("RESET")) plain (
    .CLK(clk), .LSR(1'b0), .CE(1'b1), .DI(ff_d), .M(1'b0), .Q(ff_plain)
  );
  TRELLIS_FF #(.SRMODE("LSR_OVER_CE"), .CEMUX("CE"), .LSRMUX("LSR"), .CLKMUX("CLK"), .REGSET("RESET")) enabled (
    .CLK(clk), .LSR(ff_reset), .CE(ff_enable), .DI(ff_d), .M(1'b0), .Q(ff_enabled)
  );
  TRELLIS_FF #(.SRMODE("LSR_OVER_CE"), .CEMUX("CE"), .LSRMUX("LSR"), .CLKMUX("CLK"), .REGSET("SET")) set (
    .CLK(clk), .LSR(ff_reset), .CE(ff_enable), .DI(ff_d), .M(1'b0), .Q(ff_set)
  );

  TRELLIS_DPR16X4 distributed (
    .DI(small_data), .WAD(small_write), .WRE(small_enable), .WCK(clk), .RAD(small_read), .DO(small_out)
  );

  one_memory #(.WIDTH(36), .MODE("NORMAL")) memory36 (
    .clk(clk), .address_a(address_a), .address_b(address_b), .data_a(data_a), .data_b(data_b), .enable_a(enable_a),
    .enable_b(enable_b), .write_a(write_a), .write_b(1'b0), .out_a(out36_a), .out_b(out36_b)
  );

  one_memory #(.WIDTH(18), .MODE("WRITETHROUGH")) memory18 (
    .clk(clk), .address_a(address_a), .address_b(address_b), .data_a(data_a), .data_b(data_b), .enable_a(enable_a),
    .enable_b(enable_b), .write_a(write_a), .write_b(write_b), .out_a(out18_a), .out_b(out18_b)
  );

  one_memory #(.WIDTH(9), .MODE("READBEFOREWRITE")) memory9 (
    .clk(clk), .address_a(address_a), .address_b(address_b), .data_a(data_a), .data_b(data_b), .enable_a(enable_a),
    .enable_b(enable_b), .write_a(write_a), .write_b(write_b), .out_a(out9_a), .out_b(out9_b)
  );

  one_memory #(.WIDTH(4), .MODE("NORMAL")) memory4 (
    .clk(clk), .address_a(address_a), .address_b(address_b), .data_a(data_a), .data_b(data_b), .enable_a(enable_a),
    .enable_b(enable_b), .write_a(write_a), .write_b(write_b), .out_a(out4_a), .out_b(out4_b)
  );

  one_memory #(.WIDTH(1), .MODE("WRITETHROUGH")) memory1 (
    .clk(clk), .address_a(address_a), .address_b(address_b), .data_a(data_a), .data_b(data_b), .enable_a(enable_a),
    .enable_b(enable_b), .write_a(write_a), .write_b(write_b), .out_a(out1_a), .out_b(out1_b)
  );
endmodule
