// SPDX-License-Identifier: Apache-2.0
// Stands for the simulation model that comes with a macro: a read that meets a write of the same address is undefined,
// and so is everything before the first write.
module example_macro_256x32 (
  input wire CLK,
  input wire WEN,
  input wire [7:0] AW,
  input wire [31:0] D,
  input wire REN,
  input wire [7:0] AR,
  output reg [31:0] Q
);
  reg [31:0] cells [0:255];
  always @(posedge CLK) begin
    if (!WEN) cells[AW] <= D;
    if (!REN) Q <= (!WEN && AW == AR) ? 32'hx : cells[AR];
  end
endmodule
