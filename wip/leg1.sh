cd .
. .venv/bin/activate
export PYTHONPATH=fr OMP_NUM_THREADS=1
exec torchrun --nproc_per_node=2 --master_port=29511 go.py >> train1.log 2>&1
