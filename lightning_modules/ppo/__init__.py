"""PPO on explanation-quality rewards: rollout, score, advantages, update."""
