# SPDX-License-Identifier: Apache-2.0
"""Small designs whose counts are known."""

SEED = """\
module seed (
  input wire clk,
  input wire [7:0] a,
  input wire [7:0] b,
  input wire [3:0] address,
  input wire write,
  input wire read,
  output wire [15:0] product,
  output wire [7:0] word,
  output wire [9:0] count,
  output wire [10:0] scaled
);
  reg [9:0] count_reg = 0;
  reg [7:0] storage [15:0];
  reg [7:0] word_reg;
  always @(posedge clk) count_reg <= count_reg + 1;
  always @(posedge clk) if (write) storage[address] <= a;
  always @(posedge clk) if (read) word_reg <= storage[address];
  assign product = a * b;
  assign scaled = a * 3'd7;
  assign word = word_reg;
  assign count = count_reg;
endmodule
"""
"""One multiplier of variables and one by a constant, 10 flip-flops, a memory of 16 x 8 with an output register."""

CHAIN = """\
module link (
  input wire clk,
  input wire a,
  input wire b,
  output reg q = 1'h0,
  output wire y
);
  assign y = a ^ b;
  always @(posedge clk) q <= y;
endmodule

module pair (
  input wire clk,
  input wire a,
  input wire b,
  output wire y
);
  wire middle;
  link link_0 (
    .clk(clk), .a(a), .b(b), .q(), .y(middle)
  );
  link link_1 (
    .clk(clk), .a(middle), .b(b), .q(), .y(y)
  );
endmodule

module chain (
  input wire clk,
  input wire [1:0] d,
  output wire [1:0] q
);
  reg [1:0] held = 2'h0;
  wire first;
  wire second;
  always @(posedge clk) held <= d;
  pair pair_0 (
    .clk(clk), .a(held[0]), .b(held[1]), .y(first)
  );
  pair pair_1 (
    .clk(clk), .a(first), .b(held[1]), .y(second)
  );
  link last (
    .clk(clk), .a(second), .b(held[1]), .q(q[0]), .y(q[1])
  );
endmodule
"""
"""Five XOR gates in a row over three levels of hierarchy; 5 + 2 flip-flops."""

LATCH = """\
module latch (
  input wire enable,
  input wire d,
  output reg q
);
  always @* if (enable) q = d;
endmodule
"""
