// SPDX-License-Identifier: Apache-2.0
// A counter with an inner accumulator and a small memory: something for the runner's own tests to run.
module counter #(
    parameter WIDTH = 8
) (
    input  wire             clk,
    input  wire             rst,
    input  wire [      7:0] step,
    output reg  [WIDTH-1:0] count,
    output wire [     31:0] total
);
  reg [31:0] inner;
  assign total = inner;
  always @(posedge clk)
    if (rst) begin
      count <= 0;
      inner <= 0;
    end else begin
      count <= count + step;
      inner <= inner + count;
`ifdef CHECKED
      assert (count < 8'd100);
`endif
    end
endmodule
