// SPDX-License-Identifier: Apache-2.0
// Example: the combine rows of `nano` in four macros of 256 x 32. Compile this file in place of the generated
// rtl/sram_w128_d256.v, with the same ports. `example_macro_256x32` stands for the macro of your library: one read port,
// one write port, enables active low, and what a read gets that meets a write is undefined.
//
// The generated file's head says that such a read must return the OLD word. This wrapper sees to it: a write waits in a
// register for one cycle. A read in the cycle of the write then gets the old word, as the macro has not seen the write
// yet; a read in the cycle after it gets the word from the register, not from the macro, which is writing.
// Memories that promise "No read meets a write" (sram_*_apart) need nothing of this: connect the macro alone.
module sram_w128_d256 (
  input wire clk,
  input wire rst,
  input wire write_en,
  input wire [7:0] write_addr,
  input wire [127:0] write_data,
  input wire read_en,
  input wire [7:0] read_addr,
  output wire [127:0] read_data
);
  reg waiting;
  reg [7:0] waiting_addr;
  reg [127:0] waiting_data;
  wire meets = waiting && waiting_addr == read_addr;
  always @(posedge clk) begin
    waiting <= write_en;
    if (write_en) begin
      waiting_addr <= write_addr;
      waiting_data <= write_data;
    end
  end

  // The output holds its word until the next read, wherever it came from.
  reg from_register;
  reg [127:0] met;
  always @(posedge clk)
    if (read_en) begin
      from_register <= meets;
      if (meets) met <= waiting_data;
    end

  wire [127:0] stored;
  assign read_data = from_register ? met : stored;

  genvar i;
  generate
    for (i = 0; i < 4; i = i + 1) begin : part
      example_macro_256x32 macro (
        .CLK(clk),
        .WEN(!waiting),
        .AW(waiting_addr),
        .D(waiting_data[32*i +: 32]),
        .REN(!(read_en && !meets)),
        .AR(read_addr),
        .Q(stored[32*i +: 32])
      );
    end
  endgenerate
endmodule
