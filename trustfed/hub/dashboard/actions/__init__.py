"""What people may do from the dashboard: each action says first what it touches, wants a reason, and is journalled."""
