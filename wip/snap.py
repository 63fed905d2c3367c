"""python snap.py RUNFOLDER BEGIN OUT: the averaged weights of a run, as it stands, as a checkpoint."""
import sys; from pathlib import Path
from minisd.tiny import train
train.export(Path(sys.argv[1]), Path(sys.argv[3]), 80000, Path(sys.argv[2]))
