"""Fine-tuning, evaluation, checkpoints and prediction: what the commands are made of."""

from minidl.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from minidl.training.finetune import FineTuned, check_out, fine_tune
from minidl.training.freezing import freeze
from minidl.training.metrics import ClassScore, Evaluation, confusion_matrix, score
from minidl.training.network import load_model
from minidl.training.predict import Predictor
from minidl.training.reporting import EpochRow, Reporter
from minidl.training.run_folder import RunFolder, run_status, saved_settings
from minidl.training.settings import Settings
from minidl.training.trainer import DivergedError, Trainer, evaluate, predict_logits
from minidl.training.warmup import warm_up

__all__ = [
    "Checkpoint",
    "ClassScore",
    "DivergedError",
    "EpochRow",
    "Evaluation",
    "FineTuned",
    "Predictor",
    "Reporter",
    "RunFolder",
    "Settings",
    "Trainer",
    "check_out",
    "confusion_matrix",
    "evaluate",
    "fine_tune",
    "freeze",
    "load_checkpoint",
    "load_model",
    "predict_logits",
    "run_status",
    "save_checkpoint",
    "saved_settings",
    "score",
    "warm_up",
]
