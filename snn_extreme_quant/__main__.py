"""``python -m snn_extreme_quant``: the command ``sxq``, also where the folder of scripts is not on the path."""

from snn_extreme_quant.cli import main

if __name__ == "__main__":
    main()
