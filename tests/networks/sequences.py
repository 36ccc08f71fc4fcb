"""Attention, embeddings, recurrent layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.cases import Net, case


@case((6, 8), (9, 8), exact=False)
def attention():
    return Net(
        lambda m, x: m.fc(m.b(F.gelu(m.a(x + m.att(x, x, x, need_weights=False)[0]))).mean(1)),
        att=nn.MultiheadAttention(8, 2, batch_first=True),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 8),
        fc=nn.Linear(8, 4),
    )


@case((6, 8), (9, 8), exact=False)
def transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 4))


@case((6, 8), (9, 8), exact=False)
def transformer_encoder_after():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 4))


@case((6, 8), (9, 8), exact=False)
def attention_by_hand():
    def steps(m, x):
        n, t, _ = x.shape
        q, k, v = m.qkv(x).reshape(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) / 2).softmax(-1) @ v
        y = x + m.out(y.transpose(1, 2).reshape(n, t, 8))
        return y + m.b(F.gelu(m.a(m.norm(y))))

    return Net(
        steps,
        qkv=nn.Linear(8, 24),
        out=nn.Linear(8, 8),
        norm=nn.LayerNorm(8),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 8),
    )


@case((7,), (9,), words=11)
def embedding():
    return Net(
        lambda m, x: m.fc(m.b(F.relu(m.a(m.table(x)))).mean(1)),
        table=nn.Embedding(11, 6),
        a=nn.Linear(6, 10),
        b=nn.Linear(10, 8),
        fc=nn.Linear(8, 4),
    )


@case((7,), (7,), words=11, exact=False)
def positions_and_class_token():
    def steps(m, x):
        y = m.table(x) + m.position
        y = torch.cat([m.token.expand(len(y), -1, -1), y], 1)
        return m.fc((y + m.b(F.gelu(m.a(m.norm(y)))))[:, 0])

    return Net(
        steps,
        table=nn.Embedding(11, 6),
        position=nn.Parameter(torch.randn(1, 7, 6)),
        token=nn.Parameter(torch.randn(1, 1, 6)),
        norm=nn.LayerNorm(6),
        a=nn.Linear(6, 12),
        b=nn.Linear(12, 6),
        fc=nn.Linear(6, 4),
    )


@case((6, 8), (9, 8), exact=False)
def mixer():
    return Net(
        lambda m, x: m.fc((x + m.b(F.gelu(m.a(x)))).mean(1)),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 8),
        fc=nn.Linear(8, 4),
    )


@case((6, 5), (9, 5), exact=False)
def recurrent():
    return Net(
        lambda m, x: m.fc(F.relu(m.b(m.lstm(F.relu(m.a(x)))[0][:, -1]))),
        a=nn.Linear(5, 8),
        lstm=nn.LSTM(8, 6, batch_first=True),
        b=nn.Linear(6, 8),
        fc=nn.Linear(8, 4),
    )


@case((6, 5), (9, 5), exact=False)
def gated_recurrent():
    return Net(
        lambda m, x: m.fc(F.relu(m.b(m.gru(x)[0]))),
        gru=nn.GRU(5, 6, batch_first=True, bidirectional=True),
        b=nn.Linear(12, 8),
        fc=nn.Linear(8, 4),
    )
