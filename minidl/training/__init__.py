"""Pretraining, fine-tuning, evaluation, checkpoints and prediction: what the commands are made of."""

from minidl.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from minidl.training.finetune import FineTuned, check_out, fine_tune
from minidl.training.freezing import freeze
from minidl.training.metrics import ClassScore, Evaluation, confusion_matrix, score
from minidl.training.network import load_model
from minidl.training.predict import Predictor
from minidl.training.pretrain import Pretrained, pretrain
from minidl.training.reporting import EpochRow, Reporter
from minidl.training.run_folder import RunFolder, continued_settings, run_status, saved_settings
from minidl.training.settings import PretrainSettings, Settings
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
    "PretrainSettings",
    "Pretrained",
    "Reporter",
    "RunFolder",
    "Settings",
    "Trainer",
    "check_out",
    "confusion_matrix",
    "continued_settings",
    "evaluate",
    "fine_tune",
    "freeze",
    "load_checkpoint",
    "load_model",
    "predict_logits",
    "pretrain",
    "run_status",
    "save_checkpoint",
    "saved_settings",
    "score",
    "warm_up",
]
