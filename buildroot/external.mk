include $(sort $(wildcard $(BR2_EXTERNAL_HEADGATE_PATH)/package/*/*.mk))
