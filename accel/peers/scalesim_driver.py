"""Runs SCALE-Sim on a list of layers. It is started by :mod:`accel.peers.scalesim` inside SCALE-Sim's own environment, alone.

Standard input holds one JSON object: ``rows``, ``columns``, ``dataflow`` ("os", "ws" or "is") and ``layers``, each the row of a
SCALE-Sim topology: input height and width, filter height and width, channels, filters, stride. For each layer one line is printed
when it is done: what its report calls "Total Cycles", the compute cycles.
"""

import contextlib
import json
import os
import sys
import tempfile

from scalesim.scale_sim import scalesim
from scalesim.single_layer_sim import single_layer_sim

# Ideal memory: SCALE-Sim works out the bandwidth that it needs (CALC), and buffers hold any layer.
CONFIG = """
[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 65536
FilterSramSzkB: 65536
OfmapSramSzkB: 65536
IfmapOffset: 0
FilterOffset: 100000000
OfmapOffset: 200000000
Dataflow: {dataflow}
Bandwidth: 10
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def main() -> None:
    """Run every layer that standard input asks for."""
    job = json.load(sys.stdin)
    answers = sys.stdout
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(sys.stderr):
        names = {}
        # A name with "DP" in it would be taken for a depthwise layer and cut up.
        rows = [f"layer{number}, {', '.join(str(value) for value in layer)},\n" for number, layer in enumerate(job["layers"])]
        texts = {"config": CONFIG.format(**job), "topology": "header,\n" + "".join(rows), "layout": "header,\n"}
        for name, text in texts.items():
            names[name] = os.path.join(directory, name)
            with open(names[name], "w", encoding="utf-8") as file:
                file.write(text)
        simulation = scalesim(save_disk_space=True, verbose=False, **names)
        for number in range(len(job["layers"])):
            layer = single_layer_sim()
            layer.set_params(number, simulation.config, simulation.topo, simulation.layout, verbose=False)
            layer.run()
            print(int(layer.get_compute_report_items()[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
